"use strict";
/* Keeps "4 s ago" true while a page stands open. The server's clock counts, not this machine's. */
(() => {
  const WORDS = {
    en: [" s ago", " min ago", " h ago"],
    "zh-hans": [" 秒前", " 分钟前", " 小时前"],
  };
  let skew = 0;

  function text(seconds, words) {
    if (seconds < 60) return Math.max(0, seconds) + words[0];
    if (seconds < 3600) return Math.floor(seconds / 60) + words[1];
    return Math.floor(seconds / 3600) + words[2];
  }

  function tick() {
    const words = WORDS[document.documentElement.lang] || WORDS.en;
    const now = Date.now() - skew;
    for (const element of document.querySelectorAll("time[data-age]")) {
      const seconds = Math.floor((now - Date.parse(element.dateTime)) / 1000);
      if (seconds >= 86400 || Number.isNaN(seconds)) continue;
      const shown = text(seconds, words);
      if (element.textContent !== shown) element.textContent = shown;
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    const server = Number(document.getElementById("not-live")?.dataset.now || 0) * 1000;
    if (server) skew = Math.round((Date.now() - server) / 1000) * 1000;
    setInterval(tick, 1000);
  });
})();
