/* Keys without a modifier: / search, j and k through a list, x choose, Enter open, ? what there is. None in a field. */

const FIELDS = "input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable], .xterm";
const rows = () => [...document.querySelectorAll("#result_list tr.data-row")];
const rowAt = (element) => element.closest?.("#result_list tr.data-row");

/* The link that Enter follows, so that the browser's own focus is the mark. */
function landing(row) {
  const link = row.querySelector("th a[href], td a[href]");
  if (link) return link;
  row.tabIndex = -1;
  return row;
}

function step(by) {
  const all = rows();
  if (!all.length) return;
  const at = all.indexOf(rowAt(document.activeElement));
  const next = at < 0 ? 0 : Math.min(all.length - 1, Math.max(0, at + by));
  const target = landing(all[next]);
  target.focus();
  target.scrollIntoView({ block: "nearest" });
}

function search() {
  const bar = document.getElementById("searchbar");
  if (bar) bar.focus();
  else document.querySelector("[data-find]")?.click();
}

const ACTS = {
  j: () => step(1),
  k: () => step(-1),
  x: () => rowAt(document.activeElement)?.querySelector("input.action-select")?.click(),
  "/": search,
  "?": () => document.getElementById("keys-help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (event.key === "Escape" && event.target.id === "searchbar") event.target.blur();
  const act = ACTS[event.key];
  if (!act || event.target.closest?.(FIELDS) || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  act();
});
