/* Ctrl+K: go to an object or a page by a few letters of its name. */

const WAIT_MS = 120;
const dialog = document.getElementById("find");
const box = document.getElementById("find-text");
const list = document.getElementById("find-rows");
const told = document.getElementById("find-told");

let timer = 0;
let asked = 0;
let chosen = 0;

function mark(index) {
  const rows = [...list.children];
  if (!rows.length) return;
  chosen = (index + rows.length) % rows.length;
  rows.forEach((row, at) => row.setAttribute("aria-selected", String(at === chosen)));
  rows[chosen].scrollIntoView({ block: "nearest" });
  box.setAttribute("aria-activedescendant", rows[chosen].id);
}

function rowFor({ kind, name, icon, url }, index) {
  const row = document.createElement("li");
  row.id = `find-row-${index}`;
  row.setAttribute("role", "option");
  const link = document.createElement("a");
  link.href = url;
  link.tabIndex = -1;
  const picture = document.createElement("span");
  picture.className = "material-symbols-outlined";
  picture.setAttribute("aria-hidden", "true");
  picture.textContent = icon;
  const title = document.createElement("strong");
  title.textContent = name;
  const what = document.createElement("span");
  what.className = "subtle";
  what.textContent = kind;
  link.append(picture, title, what);
  row.append(link);
  return row;
}

async function ask() {
  const mine = ++asked;
  try {
    const answer = await fetch(`${dialog.dataset.url}?q=${encodeURIComponent(box.value)}`, {
      signal: AbortSignal.timeout(8000),
    });
    if (mine !== asked) return;
    if (!answer.ok) throw new Error(String(answer.status));
    const { found } = await answer.json();
    list.replaceChildren(...found.map(rowFor));
    told.textContent = found.length ? "" : dialog.dataset.nothing;
    mark(0);
  } catch {
    if (mine === asked) told.textContent = dialog.dataset.failed;
  }
}

function open() {
  if (dialog.open) return;
  box.value = "";
  dialog.showModal();
  box.focus();
  ask();
}

const inTerminal = (target) => target.closest?.(".xterm") !== null && target.closest?.(".xterm") !== undefined;

document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.altKey || event.key.toLowerCase() !== "k") return;
  if (inTerminal(event.target)) return;
  event.preventDefault();
  open();
});
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-find]")) open();
});
box.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(ask, WAIT_MS);
});
box.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown") mark(chosen + 1);
  else if (event.key === "ArrowUp") mark(chosen - 1);
  else if (event.key === "Enter") list.children[chosen]?.querySelector("a").click();
  else return;
  event.preventDefault();
});
