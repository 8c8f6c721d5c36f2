// Where a question is written: Enter sends, Shift+Enter starts a line; while an answer comes there is Stop instead.

const byId = (id) => document.getElementById(id);

export class Composer {
  constructor({ send, stop }) {
    this.field = byId("composer-text");
    this.notice = byId("composer-notice");
    this.problemBox = byId("composer-problem");
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.field.value.trim();
      if (!text || this.busy || this.closed) return;
      this.lastSent = this.field.value;
      this.field.value = "";
      this.problem("");
      send(text);
    });
    this.field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      byId("composer").requestSubmit();
    });
    byId("composer-stop").addEventListener("click", () => {
      stop();
      this.field.focus();
    });
  }

  /** `why`: nodes that say why nothing can be sent; empty when it can. */
  set(busy, why) {
    this.busy = busy;
    this.closed = why.length > 0;
    byId("composer-send").hidden = busy;
    byId("composer-stop").hidden = !busy;
    byId("composer-send").disabled = this.closed;
    this.notice.hidden = !this.closed;
    const told = why.map((part) => (typeof part === "string" ? part : part.textContent)).join("");
    if (this.notice.textContent !== told) this.notice.replaceChildren(...why);
  }

  problem(sentence) {
    this.problemBox.textContent = sentence;
    this.problemBox.hidden = !sentence;
  }

  /** What was refused comes back to be sent again. */
  giveBack() {
    if (this.lastSent && !this.field.value) this.field.value = this.lastSent;
    this.lastSent = "";
  }
}

/** Says it once to those who listen: only that an answer has begun or ended. */
export function announce(sentence) {
  byId("chat-status").textContent = sentence;
}
