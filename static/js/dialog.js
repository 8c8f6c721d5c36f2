"use strict";
/* A form with data-confirm opens its dialog instead of posting; without scripts the server asks on a page of its own.
   A button with data-open opens the dialog it names. What takes its time after a post shows a bar meanwhile. */
(() => {
  document.addEventListener("submit", (event) => {
    const dialog = document.getElementById(event.target.dataset.confirm || "");
    if (!dialog) return;
    event.preventDefault();
    dialog.showModal();
  });

  let waiting = 0;
  document.addEventListener("submit", (event) => {
    if (event.defaultPrevented || event.target.method !== "post") return;
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const bar = document.createElement("progress"); // without a value: how long it takes nobody knows
      bar.className = "busy-bar";
      bar.setAttribute("aria-label", document.title);
      document.body.append(bar);
    }, 300);
  });
  addEventListener("pageshow", () => {
    clearTimeout(waiting);
    for (const bar of document.querySelectorAll(".busy-bar")) bar.remove();
  });

  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-open]");
    if (opener) {
      const dialog = document.getElementById(opener.dataset.open);
      if (dialog) dialog.showModal();
      else location.reload(); // the button came with a live update, its dialog comes with the page
      return;
    }
    const closer = event.target.closest("[data-close]");
    if (closer) closer.closest("dialog").close();
    else if (event.target instanceof HTMLDialogElement) event.target.close();
  });
})();
