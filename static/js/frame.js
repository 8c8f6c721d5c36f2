"use strict";
/* Makes unfold's frame usable without a mouse and with a screen reader: its icons are words to those who listen,
   and some of its buttons are bare spans. */
(() => {
  const CLICKED = "a:not([href])[x-on\\:click], span[x-on\\:click], div.cursor-pointer[x-on\\:click]";

  function quietIcons(root) {
    for (const icon of root.querySelectorAll(".material-symbols-outlined:not([aria-hidden])")) {
      if (!icon.matches("[x-on\\:click]")) icon.setAttribute("aria-hidden", "true");
    }
  }

  function makeButtons(root) {
    for (const element of root.querySelectorAll(CLICKED)) {
      if (element.hasAttribute("role")) continue;
      element.setAttribute("role", "button");
      element.tabIndex = 0;
      if (element.textContent.trim() === "dock_to_right") {
        element.setAttribute("aria-label", document.getElementById("not-live")?.dataset.menu || "Menu");
      }
    }
  }

  document.addEventListener("keydown", (event) => {
    const element = event.target;
    if (event.key !== "Enter" && event.key !== " ") return;
    if (!element.matches || !element.matches(CLICKED)) return;
    event.preventDefault();
    element.click();
  });

  document.addEventListener("DOMContentLoaded", () => {
    quietIcons(document);
    makeButtons(document);
  });
})();
