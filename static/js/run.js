"use strict";
/* Opening and closing groups, servers and pages of a run in place: what is open stands in the address, and the live
   refresh asks for that address. Without this script the links load the page. */
(() => {
  document.addEventListener("click", async (event) => {
    const link = event.target.closest("a[data-inplace]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    link.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(link.href, { cache: "no-store", headers: { "X-Live": "1" }, signal: AbortSignal.timeout(10000) });
      if (!answer.ok || answer.redirected) throw new Error(String(answer.status));
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("live");
      if (!fresh) throw new Error("no page");
      const opened = link.id;
      document.getElementById("live").replaceChildren(...fresh.childNodes);
      history.replaceState(null, "", link.href);
      if (opened) document.getElementById(opened)?.focus({ preventScroll: true });
    } catch {
      location.assign(link.href);
    }
  });
})();
