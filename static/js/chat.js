// The chat page: sends a question, shows the answer as it arrives, stops, retries, clears.

import { AnswerError, streamAnswer } from "./completions.js";
import { renderMarkdown } from "./markdown.js";

const RENDER_EVERY_MS = 80;
const POLL_EVERY_MS = 1000;
const NEAR_THE_END_PX = 120;

const byId = (id) => document.getElementById(id);
const root = byId("chat");
const texts = {};
for (const [name, value] of Object.entries(root.dataset)) {
  if (name.startsWith("text")) texts[name.slice(4).toLowerCase()] = value;
}
const input = byId("chat-input");
const list = byId("chat-messages");
const words = typeof Intl.Segmenter === "function" ? new Intl.Segmenter(undefined, { granularity: "word" }) : null;

/** What was said, oldest first: {role, text, state, box}. */
let turns = [...list.querySelectorAll(".chat-message")].map((box) => {
  const text = box.querySelector(".chat-text").textContent;
  return { role: box.dataset.role, state: box.dataset.state, text, box };
});
let running = null;

function show(turn) {
  const target = turn.box.querySelector(".chat-text");
  if (turn.role === "assistant") renderMarkdown(target, turn.text, texts.code);
  else target.textContent = turn.text;
}

function addTurn(role, text, state) {
  const box = byId("chat-template").content.firstElementChild.cloneNode(true);
  box.dataset.role = role;
  box.dataset.state = state;
  if (role === "user") box.querySelector(".chat-who").textContent = texts.you;
  const turn = { role, text, state, box };
  turns.push(turn);
  byId("chat-empty").hidden = true;
  byId("chat-clear").disabled = false;
  list.append(box);
  show(turn);
  return turn;
}

function setFoot(turn, state, sentence) {
  turn.state = state;
  turn.box.dataset.state = state;
  const foot = turn.box.querySelector(".chat-foot");
  foot.replaceChildren();
  if (state === "failed" || state === "stopped") {
    const mark = document.createElement("span");
    mark.className = "chat-state";
    mark.textContent = texts[state];
    foot.append(mark, " ");
  }
  foot.append(sentence);
}

function addRetry(turn, question) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "chat-button chat-retry";
  button.textContent = texts.retry;
  button.addEventListener("click", () => {
    button.remove();
    send(question);
  });
  turn.box.querySelector(".chat-foot").append(" ", button);
}

// A question whose answer failed or stayed empty is left out with it: models expect both, in turn.
function context() {
  const kept = [];
  for (const turn of turns) {
    if (turn.role === "assistant" && (turn.state === "failed" || !turn.text)) {
      if (kept.at(-1)?.role === "user") kept.pop();
    } else {
      kept.push({ role: turn.role, content: turn.text });
    }
  }
  return kept;
}

function countWords(text) {
  if (!words) return text.split(/\s+/).filter(Boolean).length;
  let count = 0;
  for (const part of words.segment(text)) count += part.isWordLike ? 1 : 0;
  return count;
}

function figures(timing, text, server) {
  const parts = [];
  if (server) parts.push(server);
  if (timing.first) {
    const wait = timing.first - timing.asked;
    parts.push(`${texts.first} ${wait < 1000 ? `${Math.round(wait)} ms` : `${(wait / 1000).toFixed(2)} s`}`);
    const seconds = (timing.last - timing.first) / 1000;
    if (seconds > 0.05) parts.push(`${(countWords(text) / seconds).toFixed(1)} ${texts.rate}`);
  }
  return parts.join(" · ");
}

function isNearTheEnd() {
  const page = document.scrollingElement;
  return page.scrollHeight - page.scrollTop - page.clientHeight < NEAR_THE_END_PX;
}

function toTheEnd() {
  const page = document.scrollingElement;
  page.scrollTop = page.scrollHeight;
}

// Shows the growing answer now and then; who has scrolled up stays where he reads.
function drawing(turn) {
  let timer = null;
  const draw = () => {
    timer = null;
    const follow = isNearTheEnd();
    show(turn);
    if (follow) toTheEnd();
  };
  return {
    soon: () => { timer ??= setTimeout(draw, RENDER_EVERY_MS); },
    now: () => { clearTimeout(timer); draw(); },
  };
}

function setRunning(control) {
  running = control;
  byId("chat-send").hidden = Boolean(control);
  byId("chat-stop").hidden = !control;
  root.toggleAttribute("data-running", Boolean(control));
}

function token() {
  const start = `${root.dataset.csrfCookie}=`;
  return document.cookie.split("; ").find((pair) => pair.startsWith(start))?.slice(start.length) || "";
}

async function send(question) {
  if (running) return;
  const control = new AbortController();
  setRunning(control);
  addTurn("user", question, "complete");
  const messages = context();
  const answer = addTurn("assistant", "", "streaming");
  toTheEnd();
  byId("chat-status").textContent = texts.waiting;
  const timing = { asked: performance.now(), first: 0, last: 0 };
  const picture = drawing(answer);
  const onText = (piece) => {
    timing.last = performance.now();
    if (!timing.first) {
      timing.first = timing.last;
      byId("chat-status").textContent = texts.answering;
    }
    answer.text += piece;
    picture.soon();
  };
  try {
    const url = root.dataset.completionsUrl;
    const server = await streamAnswer({ url, token: token(), messages, signal: control.signal, onText, texts });
    setFoot(answer, "complete", figures(timing, answer.text, server));
    byId("chat-status").textContent = texts.done;
  } catch (error) {
    failed(answer, question, error, control.signal.aborted, figures(timing, answer.text, ""));
  } finally {
    setRunning(null);
    picture.now();
  }
}

function failed(answer, question, error, wasStopped, told) {
  if (wasStopped) {
    setFoot(answer, "stopped", told);
    byId("chat-status").textContent = texts.stopped;
    return;
  }
  const sentence = error instanceof AnswerError ? error.message : texts.broken;
  setFoot(answer, "failed", sentence);
  addRetry(answer, question);
  byId("chat-status").textContent = `${texts.failed}: ${sentence}`;
}

// An answer another tab is getting, or one just left by a reload: read from the history until it has ended.
async function follow(turn, position) {
  for (;;) {
    await new Promise((resolve) => { setTimeout(resolve, POLL_EVERY_MS); });
    if (running || !turns.includes(turn)) return;
    const response = await fetch(root.dataset.historyUrl).catch(() => null);
    const rows = response?.ok ? await response.json() : [];
    const row = rows[rows.length - position];
    if (!row) return;
    turn.text = row.content;
    show(turn);
    if (row.state !== "streaming") {
      setFoot(turn, row.state, row.reason);
      return;
    }
  }
}

async function clear() {
  running?.abort();
  const response = await fetch(root.dataset.historyUrl, { method: "DELETE", headers: { "X-CSRFToken": token() } }).catch(() => null);
  if (!response?.ok) {
    const told = await response?.json().catch(() => ({}));
    byId("chat-status").textContent = told?.error?.message || texts.unreachable;
    return;
  }
  for (const turn of turns) turn.box.remove();
  turns = [];
  byId("chat-empty").hidden = false;
  byId("chat-clear").disabled = true;
  byId("chat-status").textContent = texts.cleared;
}

byId("chat-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = input.value.trim();
  if (!question || running) return;
  input.value = "";
  send(question);
});
input.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("chat-form").requestSubmit();
});
byId("chat-stop").addEventListener("click", () => {
  running?.abort();
  input.focus();
});
byId("chat-clear").addEventListener("click", () => byId("chat-dialog").showModal());
byId("chat-dialog").addEventListener("close", () => {
  if (byId("chat-dialog").returnValue === "clear") clear();
  byId("chat-dialog").returnValue = "";
  byId("chat-clear").focus();
});

turns.forEach((turn, index) => {
  show(turn);
  if (turn.state === "streaming") follow(turn, turns.length - index);
});
if (turns.length) toTheEnd();
root.setAttribute("data-ready", "");
