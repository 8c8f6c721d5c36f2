// One conversation as it is shown: its branch of messages, an answer growing, and what can be done with each.

import { api, data, fill, texts } from "./chat_api.js";
import { MarkdownView, copyText } from "./markdown.js";

const DRAW_LEAST_MS = 60;
const NEAR_THE_END_PX = 48;
const TRACKS = ["reasoning", "content"];

export class Thread {
  /** `box` holds partials/chat_thread.html; `on` has changed(thread), ended(turn), problem(sentence, thread). */
  constructor(box, socket, on) {
    this.box = box;
    this.socket = socket;
    this.on = on;
    this.scroll = box.querySelector(".thread-scroll");
    this.list = box.querySelector(".thread-turns");
    this.template = box.querySelector("template");
    this.following = true;
    this.list.querySelector(".thread-empty").textContent = texts.empty;
    this.scroll.addEventListener("scroll", () => this.onScroll());
    box.addEventListener("click", (event) => this.onClick(event));
    new ResizeObserver(() => this.toTheEnd()).observe(this.scroll);
    this.show(null, [], false);
  }

  get running() {
    return this.turns.find((turn) => turn.state === "streaming") || null;
  }

  /** Shows this conversation (null: one not begun yet) and goes on with what is being written in it. */
  show(conversation, turns, more) {
    if (this.id && this.id !== conversation?.id && this.socket.isOpen) this.socket.say({ type: "leave", conversation: this.id });
    this.id = conversation?.id || null;
    for (const turn of this.turns || []) turn.box.remove();
    this.turns = [];
    this.more = more;
    this.following = true;
    for (const turn of turns) this.append(turn);
    if (this.socket.isOpen) this.rejoin();
    this.refreshed();
  }

  /** When the connection has come, or come back. */
  rejoin() {
    if (!this.id) return;
    this.socket.say({ type: "join", conversation: this.id });
    this.resume();
  }

  resume() {
    const turn = this.running;
    if (!turn || !this.id) return;
    this.socket.say({ type: "resume", answer: turn.id, offset: turn.at.content, reasoning_offset: turn.at.reasoning });
  }

  async reload() {
    const id = this.id;
    try {
      const told = await api("GET", `${data.api_url}/${id}/turns`);
      if (this.id === id) this.replace(told.turns, told.more);
    } catch (error) {
      this.on.problem(error.message, this);
    }
  }

  replace(turns, more) {
    const known = new Map(this.turns.map((turn) => [turn.id, turn]));
    for (const turn of this.turns) turn.box.remove();
    this.turns = [];
    this.more = more;
    for (const turn of turns) this.append(turn, known.get(turn.id));
    this.resume();
    this.refreshed();
  }

  // What the socket says about this conversation.

  take(frame) {
    if (frame.type === "message" || frame.type === "start") this.place(frame.turn);
    else if (frame.type === "chunk") this.grow(frame);
    else if (frame.type === "status") this.onStatus(frame.conversation);
    else if (frame.answer && frame.end) this.finish(frame);
  }

  // A new message follows its parent; what stood there before is another branch now.
  place(turn) {
    if (this.turns.some((one) => one.id === turn.id)) return;
    const parent = this.turns.findIndex((one) => one.id === turn.parent);
    if (turn.parent !== null && parent < 0) {
      this.reload();
      return;
    }
    for (const gone of this.turns.splice(parent + 1)) gone.box.remove();
    if (turn.role === "user") this.following = true;
    this.append(turn);
    this.refreshed();
  }

  grow(frame) {
    const turn = this.turns.find((one) => one.id === frame.answer);
    if (!turn) return;
    const at = turn.at[frame.track];
    if (frame.offset > at) {
      this.resume();
      return;
    }
    if (frame.next <= at) return;
    turn[frame.track] += frame.offset === at ? frame.text : [...frame.text].slice(at - frame.offset).join("");
    turn.at[frame.track] = frame.next;
    this.drawSoon(turn);
  }

  finish(frame) {
    const turn = this.turns.find((one) => one.id === frame.answer);
    if (!turn) return;
    Object.assign(turn, frame.end);
    this.draw(turn);
    if (turn.at.content !== turn.length || turn.at.reasoning !== turn.reasoning_length) this.reload();
    this.refreshed();
    this.on.ended(turn, this);
  }

  onStatus(conversation) {
    if (conversation.gone) return;
    if (conversation.head !== (this.turns.at(-1)?.id ?? null)) this.reload();
  }

  // Drawing.

  append(turn, before) {
    const box = this.template.content.firstElementChild.cloneNode(true);
    turn.box = box;
    turn.at = { content: turn.length, reasoning: turn.reasoning_length };
    box.dataset.id = turn.id;
    box.dataset.role = turn.role;
    turn.view = new MarkdownView(box.querySelector(".turn-text"), texts);
    turn.thoughts = new MarkdownView(box.querySelector(".turn-thoughts"), texts);
    box.querySelector("details").open = before?.box.querySelector("details").open || false;
    const index = this.turns.push(turn) - 1;
    const next = this.turns[index + 1];
    this.list.insertBefore(box, next ? next.box : null);
    this.draw(turn);
  }

  drawSoon(turn) {
    if (turn.timer) return;
    turn.timer = setTimeout(() => {
      turn.timer = 0;
      const begun = performance.now();
      this.draw(turn);
      turn.pause = Math.max(DRAW_LEAST_MS, 4 * (performance.now() - begun)); // a long answer must not take the page's time
    }, turn.pause || DRAW_LEAST_MS);
  }

  draw(turn) {
    clearTimeout(turn.timer);
    turn.timer = 0;
    const { box } = turn;
    const finished = turn.state !== "streaming";
    box.dataset.state = turn.state;
    box.toggleAttribute("data-waiting", !finished && !turn.content && !turn.reasoning);
    box.querySelector(".turn-who").textContent = whoSaid(turn);
    if (turn.role === "assistant") turn.view.update(turn.content, finished);
    else box.querySelector(".turn-text").textContent = turn.content;
    this.drawThoughts(turn, finished);
    this.drawEnd(turn);
    this.drawFoot(turn, finished);
    this.toTheEnd();
  }

  drawThoughts(turn, finished) {
    const details = turn.box.querySelector("details");
    details.hidden = !turn.reasoning;
    if (!turn.reasoning) return;
    details.querySelector("summary").textContent = finished || turn.content ? texts.reasoning : texts.reasoning_now;
    turn.thoughts.update(turn.reasoning, finished);
  }

  drawEnd(turn) {
    const end = turn.box.querySelector(".turn-end");
    end.replaceChildren();
    if (turn.state !== "failed" && turn.state !== "stopped") return;
    const mark = document.createElement("strong");
    mark.textContent = texts[turn.state];
    end.append(mark, " ", turn.state === "failed" ? turn.reason : "");
  }

  drawFoot(turn, finished) {
    const part = (name) => turn.box.querySelector(`[data-do="${name}"]`);
    const place = turn.siblings.indexOf(turn.id);
    turn.box.querySelector(".turn-branch").hidden = turn.siblings.length < 2;
    turn.box.querySelector(".turn-place").textContent = fill(texts.of, place + 1, turn.siblings.length);
    part("previous").setAttribute("aria-label", texts.branch_previous);
    part("next").setAttribute("aria-label", texts.branch_next);
    part("previous").disabled = place <= 0;
    part("next").disabled = place >= turn.siblings.length - 1;
    part("copy").hidden = !turn.content;
    part("edit").hidden = turn.role !== "user";
    part("again").hidden = turn.role !== "assistant" || !finished || turn.parent === null;
    part("again").querySelector("[data-label]").textContent = turn.state === "failed" ? texts.retry : texts.again;
    turn.box.querySelector(".turn-figures").replaceChildren(...figuresOf(turn));
  }

  refreshed() {
    this.list.querySelector(".thread-empty").hidden = this.turns.length > 0;
    this.list.querySelector(".thread-more").hidden = !this.more;
    const busy = Boolean(this.running);
    this.box.toggleAttribute("data-busy", busy);
    for (const button of this.list.querySelectorAll("[data-do=again], [data-do=edit]")) button.disabled = busy;
    this.on.changed(this);
  }

  // Where the reader is.

  onScroll() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroll;
    this.following = scrollHeight - scrollTop - clientHeight < NEAR_THE_END_PX;
    this.box.querySelector(".thread-follow").hidden = this.following;
  }

  toTheEnd() {
    if (this.following) this.scroll.scrollTop = this.scroll.scrollHeight;
  }

  // What a person does.

  onClick(event) {
    const button = event.target.closest("[data-do]");
    if (!button) return;
    const turn = this.turns.find((one) => one.box === button.closest(".turn"));
    const what = {
      follow: () => { this.following = true; this.toTheEnd(); },
      earlier: () => this.showEarlier(),
      copy: () => copyText(turn.content, button, texts),
      edit: () => this.edit(turn),
      again: () => this.ask({ question: turn.parent }),
      previous: () => this.choose(turn, -1),
      next: () => this.choose(turn, 1),
      save: () => this.saveEdit(turn),
      cancel: () => this.closeEdit(turn),
    }[button.dataset.do];
    what?.();
  }

  /** Asks in this conversation: `{content}`, `{content, parent}` for a branch, or `{question}` for another answer. */
  ask(what) {
    this.on.asked?.(this);
    this.socket.say({ type: "send", conversation: this.id, ref: `${this.id}`, ...what });
  }

  stop() {
    if (this.running) this.socket.say({ type: "cancel", answer: this.running.id });
  }

  async showEarlier() {
    const height = this.scroll.scrollHeight;
    try {
      const told = await api("GET", `${data.api_url}/${this.id}/turns?before=${this.turns[0].id}`);
      const shown = this.turns;
      this.turns = [];
      this.more = told.more;
      this.following = false;
      const first = shown[0].box;
      for (const turn of told.turns) {
        this.append(turn);
        this.list.insertBefore(turn.box, first);
      }
      this.turns.push(...shown);
      this.refreshed();
      this.scroll.scrollTop += this.scroll.scrollHeight - height;
    } catch (error) {
      this.on.problem(error.message, this);
    }
  }

  async choose(turn, step) {
    const message_id = turn.siblings[turn.siblings.indexOf(turn.id) + step];
    try {
      await api("PUT", `${data.api_url}/${this.id}/branch`, { message_id });
      this.following = false;
      await this.reload();
      this.list.querySelector(`[data-id="${message_id}"] [data-do="${step < 0 ? "previous" : "next"}"]`)?.focus();
    } catch (error) {
      this.on.problem(error.message, this);
    }
  }

  edit(turn) {
    if (turn.box.querySelector(".turn-edit")) return;
    const form = document.createElement("div");
    form.className = "turn-edit";
    const field = document.createElement("textarea");
    field.className = "chat-field";
    field.value = turn.content;
    field.setAttribute("aria-label", texts.edit);
    form.append(field, button("cancel", texts.cancel, "btn"), button("save", texts.send, "btn btn-primary"));
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.closeEdit(turn);
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.saveEdit(turn);
    });
    turn.box.toggleAttribute("data-editing", true);
    turn.box.querySelector(".turn-text").after(form);
    field.focus();
  }

  saveEdit(turn) {
    const content = turn.box.querySelector(".turn-edit textarea").value.trim();
    if (!content || this.running) return;
    this.closeEdit(turn);
    this.ask({ content, parent: turn.parent });
  }

  closeEdit(turn) {
    turn.box.querySelector(".turn-edit")?.remove();
    turn.box.removeAttribute("data-editing");
    turn.box.querySelector("[data-do=edit]").focus();
  }
}

function button(what, label, className) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = className;
  made.dataset.do = what;
  made.textContent = label;
  return made;
}

function whoSaid(turn) {
  if (turn.role === "user") return texts.you;
  if (turn.role === "system") return texts.system;
  return turn.model || texts.answer;
}

export function milliseconds(value) {
  return value < 1000 ? `${value} ms` : `${(value / 1000).toFixed(2)} s`;
}

// "gpu-07 210 ms 41.2 tok/s"; what each means stands in its tooltip.
function figuresOf(turn) {
  if (turn.role !== "assistant" || turn.state === "streaming") return [];
  const parts = [];
  const add = (text, title) => {
    const span = document.createElement("span");
    span.textContent = text;
    span.title = title;
    parts.push(span);
  };
  if (turn.server_name) add(turn.server_name, turn.model);
  if (turn.first_token_ms !== null) add(milliseconds(turn.first_token_ms), texts.first);
  if (turn.tokens_per_second !== null) {
    const counted = turn.completion_tokens !== null;
    add(`${counted ? "" : "≈"}${turn.tokens_per_second.toFixed(1)} tok/s`, counted ? tokensOf(turn) : texts.approximate);
  }
  if (turn.duration_ms !== null) add(milliseconds(turn.duration_ms), texts.total);
  return parts;
}

function tokensOf(turn) {
  return fill(texts.tokens, turn.prompt_tokens ?? "–", turn.completion_tokens);
}
