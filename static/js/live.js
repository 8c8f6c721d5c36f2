"use strict";
/* Fetches the page anew every few seconds and patches what differs inside #live: scroll, focus and what a reader
   has opened or selected stay as they are. */
(() => {
  const LATE_MS = 5000;
  let timer = 0;
  let lastGood = Date.now();
  let stopped = false;

  const region = () => document.getElementById("live");

  function patchAttributes(here, there) {
    for (const { name } of [...here.attributes]) {
      if (name === "open" && here.tagName === "DETAILS") continue;
      if (!there.hasAttribute(name)) here.removeAttribute(name);
    }
    for (const { name, value } of there.attributes) {
      if (name === "open" && here.tagName === "DETAILS") continue;
      if (here.getAttribute(name) !== value) here.setAttribute(name, value);
    }
  }

  function patch(here, there) {
    if (here.nodeType !== there.nodeType || here.nodeName !== there.nodeName || here.id !== there.id) {
      here.replaceWith(document.importNode(there, true));
      return;
    }
    if (here.nodeType !== Node.ELEMENT_NODE) {
      if (here.data !== there.data) here.data = there.data;
      return;
    }
    if (here.isEqualNode(there)) return;
    patchAttributes(here, there);
    patchChildren(here, there);
  }

  function patchChildren(here, there) {
    const present = [...here.childNodes];
    const wanted = [...there.childNodes];
    wanted.forEach((child, index) => {
      if (index < present.length) patch(present[index], child);
      else here.append(document.importNode(child, true));
    });
    present.slice(wanted.length).forEach((child) => child.remove());
  }

  function selecting(live) {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && live.contains(selection.anchorNode);
  }

  function tellLate() {
    const bar = document.getElementById("not-live");
    if (!bar) return;
    const late = Date.now() - lastGood > LATE_MS + 1000 * Number(region().dataset.liveSeconds);
    bar.hidden = !late;
    if (late) bar.textContent = bar.dataset.text.replace("%s", new Date(lastGood).toLocaleTimeString());
  }

  async function refresh() {
    const live = region();
    if (document.hidden || document.querySelector("dialog[open]") || selecting(live)) return;
    try {
      const answer = await fetch(location.href, { cache: "no-store", headers: { "X-Live": "1" }, signal: AbortSignal.timeout(10000) });
      if (stopped) return;
      if (answer.status === 404) return location.assign(new URL("../", location.href));
      if (answer.redirected) return location.reload();
      if (!answer.ok) throw new Error(String(answer.status));
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("live");
      if (!fresh || stopped || selecting(live)) return;
      patch(live, fresh);
      lastGood = Date.now();
    } catch (problem) {
      console.warn("not live:", problem.message);
    }
    tellLate();
  }

  function plan() {
    const seconds = Number(region()?.dataset.liveSeconds || 0);
    if (!seconds || stopped) return;
    timer = setTimeout(async () => {
      await refresh();
      plan();
    }, seconds * 1000);
  }

  function stop() {
    stopped = true; // a page on its way out must not eat the message meant for the next one
    clearTimeout(timer);
  }

  document.addEventListener("submit", (event) => {
    if (!event.defaultPrevented) stop();
  });
  addEventListener("pagehide", stop);
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    stopped = false;
    plan();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    lastGood = Math.max(lastGood, Date.now() - LATE_MS);
  });
  document.addEventListener("DOMContentLoaded", plan);
})();
