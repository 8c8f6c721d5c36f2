/* What came of one's own action floats above the page: success for 5 s, longer while one looks at it; errors until
   they are closed. At most three at a time: the others wait, counted, for a place. */

const PASSES_MS = 5000;
const MOST = 3;
const list = document.querySelector(".notices");
const waiting = [];
const more = document.createElement("li");

function closer(word) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "notice-close material-symbols-outlined";
  button.setAttribute("aria-label", word);
  button.textContent = "close";
  return button;
}

function leave(notice) {
  notice.remove();
  fill();
}

function pass(notice) {
  const looking = notice.matches(":hover, :focus-within");
  if (looking) setTimeout(pass, PASSES_MS, notice);
  else leave(notice);
}

function fill() {
  while (waiting.length && list.children.length - list.contains(more) < MOST) {
    const notice = waiting.shift();
    list.insertBefore(notice, list.contains(more) ? more : null);
    if ("passes" in notice.dataset) setTimeout(pass, PASSES_MS, notice);
  }
  if (!waiting.length) return more.remove();
  more.textContent = list.dataset.moreWord.replace("%s", waiting.length);
  list.append(more);
}

if (list) {
  list.classList.add("notices-float");
  more.className = "notices-more";
  for (const notice of [...list.children]) {
    notice.append(closer(list.dataset.closeWord));
    notice.remove();
    waiting.push(notice);
  }
  list.addEventListener("click", (event) => {
    const notice = event.target.closest(".notice-close")?.closest("li");
    if (notice) leave(notice);
  });
  fill();
}
