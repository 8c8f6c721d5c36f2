// A model's Markdown, shown safely: no HTML, nothing loaded from elsewhere, and what is rendered is sanitised once more.

import "../vendor/markdown-it/markdown-it.min.js";
import "../vendor/dompurify/purify.min.js";
import { copied } from "./clipboard.js";

const LINKS = /^(?:https?:\/\/|mailto:)/i;
const HIGHLIGHTED_MOST_CHARS = 50000;
const TAGS = "a blockquote br code del em h1 h2 h3 h4 h5 h6 hr li ol p pre s strong table tbody td th thead tr ul".split(" ");
const CLEAN = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ["href", "title", "class", "start", "target", "rel"],
  ALLOW_DATA_ATTR: false,
  ALLOWED_URI_REGEXP: LINKS,
  ADD_URI_SAFE_ATTR: ["target", "rel", "start"], // else their values too would have to look like links
  RETURN_DOM_FRAGMENT: true,
};
const CLEAN_CODE = { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], ALLOW_DATA_ATTR: false, RETURN_DOM_FRAGMENT: true };

const { markdownit, DOMPurify } = globalThis;
const parser = markdownit({ html: false, linkify: true, breaks: true });
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
parser.validateLink = (url) => LINKS.test(url.trim());

parser.renderer.rules.link_open = (tokens, at, options, env, self) => {
  tokens[at].attrSet("target", "_blank");
  tokens[at].attrSet("rel", "noopener noreferrer nofollow");
  return self.renderToken(tokens, at, options);
};
// A picture would be fetched from wherever the model says, with whatever it put into the address: it is a link.
parser.renderer.rules.image = (tokens, at) => {
  const { escapeHtml } = parser.utils;
  const source = escapeHtml(tokens[at].attrGet("src") || "");
  return `<a href="${source}" target="_blank" rel="noopener noreferrer nofollow">${escapeHtml(tokens[at].content || "") || source}</a>`;
};

let highlighter = null;
function loadHighlighter() {
  highlighter ??= import("../vendor/highlight/highlight.min.js").then((module) => module.default);
  return highlighter;
}

/** The text in `box`, which may grow: a block that is done is not touched again, so selections and scrolls in it stay. */
export class MarkdownView {
  constructor(box, texts) {
    this.box = box;
    this.texts = texts;
    this.blocks = []; // {html, element}
  }

  update(text, finished) {
    const fresh = blocksOf(text);
    for (let at = 0; at < fresh.length; at += 1) {
      const done = finished || at < fresh.length - 1;
      let block = this.blocks[at];
      if (block?.html !== fresh[at]) {
        const element = this.element(fresh[at]);
        if (block) block.element.replaceWith(element);
        else this.box.append(element);
        block = this.blocks[at] = { html: fresh[at], element, highlighted: false };
      }
      if (done && !block.highlighted) {
        block.highlighted = true;
        block.element.querySelectorAll("pre > code").forEach(highlight);
      }
    }
    for (const block of this.blocks.splice(fresh.length)) block.element.remove();
  }

  element(html) {
    const element = document.createElement("div");
    element.className = "md-block";
    element.append(DOMPurify.sanitize(html, CLEAN));
    element.querySelectorAll("pre > code").forEach((code) => this.frame(code));
    element.querySelectorAll("table").forEach((table) => {
      const scroll = document.createElement("div");
      scroll.className = "md-table";
      scroll.tabIndex = 0;
      table.replaceWith(scroll);
      scroll.append(table);
    });
    return element;
  }

  // A code block says its language, scrolls by keyboard too, and can be copied.
  frame(code) {
    const pre = code.parentElement;
    const box = document.createElement("div");
    const bar = document.createElement("div");
    const name = document.createElement("span");
    const copy = document.createElement("button");
    box.className = "md-code";
    bar.className = "md-code-bar";
    name.textContent = languageOf(code) || this.texts.code;
    copy.type = "button";
    copy.className = "md-copy";
    copy.textContent = this.texts.copy;
    copy.addEventListener("click", () => copyText(code.textContent, copy, this.texts));
    pre.tabIndex = 0;
    pre.setAttribute("aria-label", name.textContent);
    bar.append(name, copy);
    pre.replaceWith(box);
    box.append(bar, pre);
  }
}

/** Copies, and says so on the button for a moment. */
export async function copyText(text, button, texts) {
  const done = await copied(text);
  button.focus();
  if (!done) return;
  const label = button.querySelector("[data-label]") || button;
  const before = label.textContent;
  if (before === texts.copied) return;
  label.textContent = texts.copied;
  setTimeout(() => { label.textContent = before; }, 1500);
}

function blocksOf(text) {
  const tokens = parser.parse(text, {});
  const blocks = [];
  let start = 0;
  tokens.forEach((token, at) => {
    if (token.level !== 0 || token.nesting === 1) return;
    blocks.push(parser.renderer.render(tokens.slice(start, at + 1), parser.options, {}));
    start = at + 1;
  });
  return blocks;
}

function languageOf(code) {
  return [...code.classList].find((name) => name.startsWith("language-"))?.slice(9) || "";
}

async function highlight(code) {
  const language = languageOf(code);
  const text = code.textContent;
  if (!language || text.length > HIGHLIGHTED_MOST_CHARS) return;
  const hljs = await loadHighlighter().catch(() => null);
  if (!hljs?.getLanguage(language)) return;
  const { value } = hljs.highlight(text, { language, ignoreIllegals: true });
  code.replaceChildren(DOMPurify.sanitize(value, CLEAN_CODE));
}
