// On narrow screens the page's two sides are drawers: one at a time, closed by Escape, the shade or their button.

const shade = document.getElementById("chat-shade");
let open = null;

function set(button, on) {
  document.getElementById(button.dataset.drawer).toggleAttribute("data-open", on);
  button.setAttribute("aria-expanded", String(on));
  shade.hidden = !on;
  open = on ? button : null;
}

export function closeDrawers() {
  if (!open) return;
  const opener = open;
  set(opener, false);
  opener.focus();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-drawer]");
  if (button) {
    if (open && open !== button) set(open, false);
    set(button, open !== button);
    if (open) document.getElementById(button.dataset.drawer).querySelector("a, input, textarea").focus();
  } else if (event.target === shade || event.target.closest("[data-drawer-close]")) {
    closeDrawers();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") closeDrawers();
});
