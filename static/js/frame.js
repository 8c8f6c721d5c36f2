"use strict";
/* Makes unfold's frame usable without a mouse and with a screen reader: its icons are words to those who listen,
   and some of its buttons are bare spans. */
(() => {
  // What buttons that are only an icon are called.
  const WORDS = {
    en: { site: "Overview", search: "Search", menu: "Menu", theme: "Light or dark", more: "More", choose: "Choose", scrolls: "Content that scrolls" },
    "zh-hans": { site: "概览", search: "搜索", menu: "菜单", theme: "浅色或深色", more: "更多", choose: "选择", scrolls: "可滚动的内容" },
  };
  const words = WORDS[document.documentElement.lang] || WORDS.en;
  const CLICKED = "a:not([href])[x-on\\:click], span[x-on\\:click], div.cursor-pointer[x-on\\:click]";

  function quietIcons(root) {
    for (const icon of root.querySelectorAll(".material-symbols-outlined:not([aria-hidden], button)")) {
      if (!icon.matches("[x-on\\:click]")) icon.setAttribute("aria-hidden", "true");
    }
  }

  function makeButtons(root) {
    for (const element of root.querySelectorAll(CLICKED)) {
      if (element.hasAttribute("role")) continue;
      element.setAttribute("role", "button");
      element.tabIndex = 0;
      if (isOnlyIcons(element)) element.setAttribute("aria-label", nameOf(element));
    }
  }

  function isOnlyIcons(element) {
    const icons = [...element.querySelectorAll(".material-symbols-outlined")].map((icon) => icon.textContent);
    return element.matches(".material-symbols-outlined") || element.textContent.trim() === icons.join("").trim();
  }

  function nameOf(element) {
    const icons = element.textContent;
    if (icons.includes("dock_to_right") || icons.includes("close")) return words.menu;
    return /mode|computer|contrast/.test(icons) ? words.theme : words.more;
  }

  function nameTheNameless(root) {
    const named = [
      ["#nav-sidebar a.bg-primary-600, #nav-sidebar a:empty", words.site],
      ["#searchbar-submit", words.search],
      ["input.select2-search__field", words.choose],
      [".simplebar-content-wrapper", words.scrolls],
    ];
    for (const [selector, name] of named) {
      for (const element of root.querySelectorAll(selector)) element.setAttribute("aria-label", name);
    }
    for (const link of root.querySelectorAll('a[href="#"][x-on\\:click]')) {
      if (isOnlyIcons(link)) link.setAttribute("aria-label", words.more);
    }
  }

  // On a phone each cell says its column. The theme takes the first column of a list for that of the boxes.
  function labelFirstColumn() {
    const head = document.querySelector("#result_list thead th");
    if (!head || head.querySelector("input")) return;
    const label = head.textContent.trim().split("\n")[0].trim();
    for (const row of document.querySelectorAll("#result_list tr.data-row")) {
      if (row.firstElementChild && label) row.firstElementChild.dataset.label = label;
    }
  }

  document.addEventListener("keydown", (event) => {
    const element = event.target;
    if (event.key !== "Enter" && event.key !== " ") return;
    if (!element.matches || !element.matches(CLICKED)) return;
    event.preventDefault();
    element.click();
  });

  // Menus close as one expects: by a click elsewhere, and by Escape, which leads back to their button.
  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) menu.open = menu.contains(event.target);
  });
  document.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && document.querySelector("details.menu[open]");
    if (!menu) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });

  document.addEventListener("DOMContentLoaded", () => {
    quietIcons(document);
    makeButtons(document);
    nameTheNameless(document);
    labelFirstColumn();
  });
  // Fields that become select boxes are remade by another script, some time after all is loaded.
  addEventListener("load", () => {
    const watch = new MutationObserver(() => nameTheNameless(document));
    for (const form of document.querySelectorAll("form")) watch.observe(form, { childList: true, subtree: true });
    nameTheNameless(document);
    setTimeout(() => watch.disconnect(), 5000);
  });
})();
