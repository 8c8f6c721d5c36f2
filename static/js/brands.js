/* Brands put in order: dragged by their handle, or moved by the buttons beside it. Each drop is saved at once and can be
   undone; what the site refuses is put back. */

const table = document.getElementById("result_list");
const toast = document.getElementById("order-toast");
const told = document.getElementById("order-told");
const undo = document.getElementById("order-undo");
const EDGE = 64; // pixels from the window's edge within which a drag scrolls

const marks = () => [...table.querySelectorAll(".order")];
const bodyOf = (mark) => mark.closest("tbody");
const order = () => marks().map((mark) => mark.dataset.brand);
const fill = (text, ...parts) => parts.reduce((made, part) => made.replace("%s", () => part), text);

function tell(text, { back = false } = {}) {
  toast.hidden = false;
  undo.hidden = !back;
  told.textContent = text;
}

/* The places of now, by brand. */
const places = () => Object.fromEntries(marks().map(({ dataset }) => [dataset.brand, Number(dataset.place)]));

/* The same numbers, handed out in the order of the rows: only what lies between the two ends of a move changes. */
function numbered() {
  const numbers = marks().map(({ dataset }) => Number(dataset.place)).sort((a, b) => a - b);
  const distinct = new Set(numbers).size === numbers.length;
  return Object.fromEntries(order().map((brand, index) => [brand, distinct ? numbers[index] : (index + 1) * 10]));
}

function arrange(brands) {
  const rows = new Map(marks().map((mark) => [mark.dataset.brand, bodyOf(mark)]));
  for (const brand of brands) table.append(rows.get(brand));
  markEnds();
}

function markEnds() {
  marks().forEach((mark, index, all) => {
    mark.querySelector(".order-up").setAttribute("aria-disabled", String(index === 0));
    mark.querySelector(".order-down").setAttribute("aria-disabled", String(index === all.length - 1));
  });
}

async function post(wanted) {
  const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
  const orders = Object.entries(wanted).map(([id, place]) => ({ id: Number(id), sort_order: place }));
  const answer = await fetch(toast.dataset.url, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRFToken": token },
    body: JSON.stringify({ orders }),
    signal: AbortSignal.timeout(15000),
  });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error?.message || `HTTP ${answer.status}`);
  for (const mark of marks()) mark.dataset.place = wanted[mark.dataset.brand] ?? mark.dataset.place;
}

let last = Promise.resolve(); // one after the other: the later order is the one that stays
let before = null; // of the last save: what Undo brings back

function save(mark, rowsBefore) {
  markEnds();
  last = last.then(async () => {
    const placesBefore = places();
    const index = marks().indexOf(mark);
    try {
      await post(numbered());
      before = { rows: rowsBefore, places: placesBefore };
      tell(fill(toast.dataset.saved, mark.dataset.name, index + 1, marks().length), { back: true });
    } catch (problem) {
      arrange(rowsBefore);
      tell(fill(toast.dataset.failed, problem.name === "Error" ? problem.message : toast.dataset.silent));
    }
  });
}

undo.addEventListener("click", () => {
  if (!before) return;
  const { rows, places: wanted } = before;
  before = null;
  last = last.then(async () => {
    const rowsBefore = order();
    arrange(rows);
    try {
      await post(wanted);
      tell(toast.dataset.undone);
    } catch (problem) {
      arrange(rowsBefore);
      tell(fill(toast.dataset.failed, problem.name === "Error" ? problem.message : toast.dataset.silent));
    }
  });
});

document.getElementById("order-close").addEventListener("click", () => {
  toast.hidden = true;
});

/* Buttons */

function step(button, mark) {
  const all = marks();
  const there = all.indexOf(mark) + (button.matches(".order-up") ? -1 : 1);
  if (there < 0 || there >= all.length) return;
  const rowsBefore = order();
  const other = bodyOf(all[there]);
  if (button.matches(".order-up")) other.before(bodyOf(mark));
  else other.after(bodyOf(mark));
  button.focus();
  save(mark, rowsBefore);
}

table?.addEventListener("click", (event) => {
  const button = event.target.closest(".order-up, .order-down");
  if (button) step(button, button.closest(".order"));
});

/* Dragging, by mouse, pen or finger */

function placeAt(row, y) {
  const rows = marks().map(bodyOf).filter((one) => one !== row);
  const next = rows.find((one) => y < one.getBoundingClientRect().top + one.getBoundingClientRect().height / 2);
  if (next) {
    if (row.nextElementSibling !== next) next.before(row);
  } else if (table.lastElementChild !== row) table.append(row);
}

table?.addEventListener("pointerdown", (event) => {
  const handle = event.target.closest(".order-handle");
  if (!handle || event.button !== 0) return;
  event.preventDefault();
  const mark = handle.closest(".order");
  const row = bodyOf(mark);
  const rowsBefore = order();
  const over = new AbortController();
  row.classList.add("is-dragged");

  function end(keep) {
    over.abort();
    row.classList.remove("is-dragged");
    if (!keep) arrange(rowsBefore);
    else if (order().join() !== rowsBefore.join()) save(mark, rowsBefore);
  }

  const listen = (name, act) => document.addEventListener(name, act, { signal: over.signal });
  listen("pointermove", ({ clientY }) => {
    if (clientY < EDGE) scrollBy(0, -12);
    if (clientY > innerHeight - EDGE) scrollBy(0, 12);
    placeAt(row, clientY);
  });
  listen("pointerup", () => end(true));
  listen("pointercancel", () => end(false));
  listen("keydown", ({ key }) => key === "Escape" && end(false));
});

if (table) markEnds();
