/* The lines of a log as they are shown. Everything written by an instance becomes text nodes. */

const MOST_LINES = 5000;
const LONGEST_LINE = 16384;
const NEAR_END_PX = 24;
// Colours, cursor moves, titles, and whatever else controls a terminal but a tab.
const CONTROLS = /\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f]/g;

/* What a line shows: a progress bar rewrites its line after each return, so the last writing counts. */
function cleaned(raw) {
  return raw.replace(/\r+$/, "").replace(/^.*\r/s, "").replace(CONTROLS, "");
}

/* The lines shown, the unfinished last one, and what is held back while somebody reads further up. */
export class LogView {
  constructor(view, onChange) {
    this.view = view;
    this.onChange = onChange;
    this.pattern = null;
    this.clear();
    view.addEventListener("scroll", () => this.scrolled());
    new ResizeObserver(() => this.paused || this.toEnd()).observe(view);
  }

  clear() {
    this.view.replaceChildren();
    this.partial = "";
    this.partialNode = null;
    this.count = 0;
    this.held = [];
    this.heldCount = 0;
    this.paused = false;
    this.onChange();
  }

  atEnd() {
    return this.view.scrollHeight - this.view.scrollTop - this.view.clientHeight <= NEAR_END_PX;
  }

  scrolled() {
    if (this.atEnd()) {
      if (this.paused) this.follow();
    } else if (!this.paused && this.view.scrollTop < this.lastTop) {
      this.paused = true;
      this.onChange();
    }
    this.lastTop = this.view.scrollTop;
  }

  follow() {
    this.paused = false;
    const held = this.held;
    this.held = [];
    this.heldCount = 0;
    this.show(held);
    this.toEnd();
    this.onChange();
  }

  toEnd() {
    this.view.scrollTop = this.view.scrollHeight;
    this.lastTop = this.view.scrollTop;
  }

  add(text) {
    const parts = (this.partial + text).split("\n");
    this.partial = parts.pop();
    if (this.partial.includes("\r")) this.partial = this.partial.replace(/^.*\r(?=[^\r])/s, "");
    if (this.partial.length > LONGEST_LINE) {
      parts.push(this.partial);
      this.partial = "";
    }
    const shown = parts.slice(-MOST_LINES).map((raw) => ({ text: cleaned(raw), note: false }));
    this.take(shown, parts.length);
  }

  note(text) {
    const lines = this.partial ? [{ text: cleaned(this.partial), note: false }] : [];
    this.partial = "";
    this.take([...lines, { text, note: true }], lines.length);
  }

  take(lines, count) {
    if (this.paused) {
      this.heldCount += count;
      this.held = this.held.concat(lines).slice(-MOST_LINES);
    } else {
      this.show(lines);
      this.toEnd();
    }
    this.onChange();
  }

  /* Lines come and go by the batch: the admin's scripts look at each element added to or taken from the page. */
  show(lines) {
    this.partialNode?.remove();
    if (lines.length) {
      const batch = document.createElement("div");
      batch.setAttribute("x-ignore", "");
      for (const line of lines.slice(-MOST_LINES)) batch.append(this.node(line));
      this.view.append(batch);
      this.count += batch.childElementCount;
    }
    this.partialNode = this.partial ? this.node({ text: cleaned(this.partial), note: false }) : null;
    if (this.partialNode) this.view.append(this.partialNode);
    while (this.count + (this.partialNode ? 1 : 0) > MOST_LINES) this.dropFirst();
  }

  dropFirst() {
    const batch = this.view.firstElementChild;
    const surplus = this.count + (this.partialNode ? 1 : 0) - MOST_LINES;
    if (batch.childElementCount <= surplus) {
      this.count -= batch.childElementCount;
      batch.remove();
    } else {
      this.count -= surplus;
      for (let left = surplus; left > 0; left -= 1) batch.firstElementChild.remove();
    }
  }

  node(line) {
    const node = document.createElement("div");
    node.className = line.note ? "log-line log-note" : "log-line";
    this.write(node, line.text);
    return node;
  }

  /* The text with its matches marked. */
  write(node, text) {
    node.replaceChildren();
    let from = 0;
    for (const match of this.pattern ? text.matchAll(this.pattern) : []) {
      const mark = document.createElement("mark");
      mark.textContent = match[0];
      node.append(text.slice(from, match.index), mark);
      from = match.index + match[0].length;
    }
    node.append(text.slice(from));
  }

  search(words) {
    this.pattern = words ? new RegExp(words.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"), "gi") : null;
    for (const node of this.view.querySelectorAll(".log-line")) {
      if (this.pattern || node.firstElementChild) this.write(node, node.textContent);
    }
  }

  marks() {
    return [...this.view.getElementsByTagName("mark")];
  }
}
