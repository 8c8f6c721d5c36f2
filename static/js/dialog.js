"use strict";
/* A form with data-confirm opens its dialog instead of posting; without scripts the server asks on a page of its own.
   A button with data-open opens the dialog it names. */
(() => {
  document.addEventListener("submit", (event) => {
    const dialog = document.getElementById(event.target.dataset.confirm || "");
    if (!dialog) return;
    event.preventDefault();
    dialog.showModal();
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
