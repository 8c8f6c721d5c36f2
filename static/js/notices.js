/* What came of one's own action floats above the page: success for 5 s, longer while one looks at it; errors until
   they are closed. Three are in sight at most, the others by scrolling. */

const PASSES_MS = 5000;
const list = document.querySelector(".notices");

function closer(word) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "notice-close material-symbols-outlined";
  button.setAttribute("aria-label", word);
  button.textContent = "close";
  return button;
}

function pass(notice) {
  const looking = notice.matches(":hover, :focus-within");
  if (looking) setTimeout(pass, PASSES_MS, notice);
  else notice.remove();
}

if (list) {
  list.classList.add("notices-float");
  for (const notice of list.children) {
    notice.append(closer(list.dataset.closeWord));
    if ("passes" in notice.dataset) setTimeout(pass, PASSES_MS, notice);
  }
  list.addEventListener("click", (event) => event.target.closest(".notice-close")?.closest("li").remove());
}
