/* The log card of a service's page: which instance (``?instance=`` first), search, wrap, and a socket that is open only while it is seen. */

import { clockText } from "./clock.js";
import { LogSource } from "./log_source.js";
import { LogView } from "./log_view.js";

class LogCard {
  constructor(card) {
    this.card = card;
    this.words = card.dataset;
    for (const name of ["instance", "query", "previous", "next", "found", "wrap", "download", "follow", "status"]) {
      this[name] = document.getElementById(`log-${name}`);
    }
    this.view = new LogView(document.getElementById("log-view"), () => this.changed());
    this.view.skipped = (bytes) => this.words.skipped.replace("%s", `${Math.ceil(bytes / 1024).toLocaleString()} KB`);
    this.view.anew = () => this.words.anew;
    this.current = null;
    this.listen();
    this.offer();
    const watched = { childList: true, subtree: true, characterData: true };
    new MutationObserver(() => this.offer()).observe(document.getElementById("live"), watched);
  }

  listen() {
    this.instance.addEventListener("change", () => this.choose());
    this.query.addEventListener("input", () => this.search());
    this.query.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      this.step(event.shiftKey ? -1 : 1);
    });
    this.previous.addEventListener("click", () => this.step(-1));
    this.next.addEventListener("click", () => this.step(1));
    this.follow.addEventListener("click", () => {
      this.view.follow();
      this.view.view.focus({ preventScroll: true });
    });
    this.wrap.addEventListener("click", () => this.toggleWrap());
    new IntersectionObserver((seen) => {
      this.inSight = seen.at(-1).isIntersecting;
      this.wake();
    }).observe(this.card);
    document.addEventListener("visibilitychange", () => this.wake());
    addEventListener("pagehide", () => this.source?.close());
    addEventListener("pageshow", () => this.wake());
  }

  /* The choice as the page has it now; what is chosen stays chosen. */
  offer() {
    const offered = [...(document.getElementById("log-choices")?.options || [])];
    const told = offered.map((option) => `${option.value} ${option.textContent}`).join("\n");
    if (told === this.told) return;
    this.told = told;
    const chosen = this.instance.value || new URLSearchParams(location.search).get("instance");
    const before = this.instance.value;
    this.instance.replaceChildren(...offered.map((option) => new Option(option.textContent, option.value)));
    if (offered.some((option) => option.value === chosen)) this.instance.value = chosen;
    this.card.hidden = offered.length === 0;
    if (this.instance.value !== before) this.choose();
  }

  choose() {
    this.source?.close();
    this.view.clear();
    this.source = null;
    const id = this.instance.value;
    if (!id) return;
    this.download.href = `/api/instances/${id}/logs/download`;
    this.source = new LogSource(`/ws/instances/${id}/logs`, this.view, (...state) => this.tell(...state));
    this.wake();
  }

  wake() {
    if (!this.source) return;
    if (this.inSight && !document.hidden) this.source.open();
    else if (this.source.socket || this.source.timer) {
      this.source.close();
      if (!this.source.over) this.tell("asleep");
    }
  }

  tell(state, message, since) {
    let text = this.words[state] || "";
    if (state === "bad") text = `${this.words.notLive.replace("%s", clockText(since))} ${message || this.words.cut}`;
    if (this.status.textContent !== text) this.status.textContent = text;
    this.status.classList.toggle("is-bad", state === "bad");
  }

  changed() {
    const { paused, heldCount } = this.view || {};
    this.follow.hidden = !paused;
    const text = heldCount ? this.words.behind.replace("%s", heldCount.toLocaleString()) : this.words.follow;
    if (this.follow.textContent !== text) this.follow.textContent = text;
    if (this.view?.pattern) this.count();
  }

  toggleWrap() {
    const wrapped = this.wrap.getAttribute("aria-pressed") !== "true";
    this.wrap.setAttribute("aria-pressed", String(wrapped));
    this.view.view.classList.toggle("is-wide", !wrapped);
    if (!this.view.paused) this.view.toEnd();
  }

  search() {
    this.current = null;
    this.view.search(this.query.value);
    this.count();
  }

  count() {
    const marks = this.view.marks();
    const place = marks.indexOf(this.current) + 1;
    this.previous.disabled = this.next.disabled = !marks.length;
    const found = marks.length ? this.words.found.replace("%s", place || "–").replace("%s", marks.length) : this.words.none;
    const text = this.query.value ? found : "";
    if (this.found.textContent !== text) this.found.textContent = text;
  }

  /* To the next match, or the last one first: the newest is what one looks for. */
  step(by) {
    const marks = this.view.marks();
    if (!marks.length) return;
    const at = marks.indexOf(this.current);
    const to = at < 0 ? marks.length - 1 : (at + by + marks.length) % marks.length;
    this.current?.classList.remove("is-current");
    this.current = marks[to];
    this.current.classList.add("is-current");
    const line = this.current.getBoundingClientRect();
    const box = this.view.view.getBoundingClientRect();
    this.view.view.scrollTop += line.top - box.top - box.height / 2;
    if (!this.view.atEnd() && !this.view.paused) {
      this.view.paused = true;
      this.changed();
    }
    this.count();
  }
}

const card = document.getElementById("logs");
if (card) new LogCard(card);
