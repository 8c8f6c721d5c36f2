// A little Markdown, built from DOM nodes alone: text from a model is never parsed as HTML.

const FENCE = /^\s*```\s*([\w+#.-]*)\s*$/;
const BULLET = /^\s*[-*+]\s+(.*)$/;
const NUMBER = /^\s*(\d{1,9})[.)]\s+(.*)$/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const INLINE = /(`[^`\n]+`|\*\*[^*\n]+\*\*)/;

/** Replaces what is in `target` with `text`: fences, inline code, bold, headings and flat lists; all else as it is. */
export function renderMarkdown(target, text, codeLabel) {
  const out = document.createDocumentFragment();
  const lines = text.split("\n");
  let at = 0;
  while (at < lines.length) {
    at = block(out, lines, at, codeLabel);
  }
  target.replaceChildren(out);
}

function block(out, lines, at, codeLabel) {
  const line = lines[at];
  if (FENCE.test(line)) return fence(out, lines, at, codeLabel);
  if (BULLET.test(line)) return list(out, lines, at, "ul", BULLET);
  if (NUMBER.test(line)) return list(out, lines, at, "ol", NUMBER);
  const heading = HEADING.exec(line);
  if (heading) {
    inline(element(out, "p", "chat-heading"), heading[2]);
    return at + 1;
  }
  return line.trim() ? paragraph(out, lines, at) : at + 1;
}

function fence(out, lines, at, codeLabel) {
  const end = lines.findIndex((line, position) => position > at && /^\s*```\s*$/.test(line));
  const last = end < 0 ? lines.length : end;
  const pre = element(out, "pre");
  pre.tabIndex = 0;
  pre.setAttribute("aria-label", FENCE.exec(lines[at])[1] || codeLabel);
  element(pre, "code").textContent = lines.slice(at + 1, last).join("\n");
  return last + 1;
}

function list(out, lines, at, kind, pattern) {
  const box = element(out, kind);
  if (kind === "ol") box.start = Number(pattern.exec(lines[at])[1]);
  while (at < lines.length && pattern.test(lines[at])) {
    const match = pattern.exec(lines[at]);
    inline(element(box, "li"), match[match.length - 1]);
    at += 1;
  }
  return at;
}

function paragraph(out, lines, at) {
  const box = element(out, "p");
  for (let first = true; at < lines.length && lines[at].trim() && (first || isPlain(lines[at])); first = false) {
    if (!first) box.append(document.createElement("br"));
    inline(box, lines[at]);
    at += 1;
  }
  return at;
}

function isPlain(line) {
  return ![FENCE, BULLET, NUMBER, HEADING].some((pattern) => pattern.test(line));
}

function inline(box, text) {
  for (const part of text.split(INLINE)) {
    if (part.length > 2 && part.startsWith("`") && part.endsWith("`")) {
      element(box, "code").textContent = part.slice(1, -1);
    } else if (part.length > 4 && part.startsWith("**") && part.endsWith("**")) {
      element(box, "strong").textContent = part.slice(2, -2);
    } else if (part) {
      box.append(part);
    }
  }
}

function element(parent, name, className) {
  const made = document.createElement(name);
  if (className) made.className = className;
  parent.append(made);
  return made;
}
