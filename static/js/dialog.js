"use strict";
/* A form with data-confirm opens its dialog instead of posting; without scripts the server asks on a page of its own. */
(() => {
  document.addEventListener("submit", (event) => {
    const dialog = document.getElementById(event.target.dataset.confirm || "");
    if (!dialog) return;
    event.preventDefault();
    dialog.showModal();
  });

  document.addEventListener("click", (event) => {
    const closer = event.target.closest("[data-close]");
    if (closer) closer.closest("dialog").close();
    else if (event.target instanceof HTMLDialogElement) event.target.close();
  });
})();
