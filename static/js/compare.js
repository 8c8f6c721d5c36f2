// One prompt to two services or endpoints, side by side. Each pane is a conversation of its own: one failing leaves the other.

import { api, data, texts } from "./chat_api.js";
import { Composer, announce } from "./chat_composer.js";
import { asFrame, drawChip, fillPicker, firstService, keepLooking, serviceOf, whyNot } from "./chat_services.js";
import { ChatSocket } from "./chat_socket.js";
import { Thread, milliseconds } from "./chat_thread.js";

const byId = (id) => document.getElementById(id);
const listed = (name) => (new URLSearchParams(location.search).get(name) || "").split(",");

let panes = [];
const composer = new Composer({ send, stop: () => panes.forEach((pane) => pane.thread.stop()) });
const socket = new ChatSocket(take, (open) => {
  const bar = byId("not-live");
  bar.hidden = open;
  if (!open) bar.textContent = texts.not_live;
  if (open) panes.forEach((pane) => pane.thread.rejoin());
});

class Pane {
  constructor(number, target) {
    this.number = number;
    this.target = target;
    this.pending = false;
    this.box = byId(`compare-pane-${number}`);
    this.tab = byId(`compare-tab-${number}`);
    this.picker = byId(`compare-service-${number}`);
    this.thread = new Thread(this.box.querySelector(".thread"), socket, {
      changed: () => refresh(),
      ended: (turn) => this.ended(turn),
      problem: (sentence) => this.problem(sentence),
      asked: () => this.problem(""),
    });
    this.picker.addEventListener("change", () => this.choose(this.picker.value || this.target));
    this.tab.addEventListener("click", () => showTab(number));
    this.box.querySelector(".compare-maximise").addEventListener("click", () => maximise(this));
  }

  // With another service a comparison begins anew: what the other one said is not put into its mouth.
  choose(target) {
    this.target = target;
    for (const pane of panes) {
      pane.thread.show(null, [], false);
      pane.problem("");
    }
    remember();
    refresh();
  }

  send(content) {
    this.problem("");
    if (whyNot(serviceOf(this.target)).length && !this.thread.id) {
      this.problem(whyNot(serviceOf(this.target)).map((part) => part.textContent ?? part).join(""));
      return;
    }
    if (this.thread.id) {
      this.thread.ask({ content, ref: this.ref });
      return;
    }
    this.pending = true;
    socket.say({ type: "send", ref: this.ref, ...asFrame(this.target), content });
  }

  get ref() {
    return `pane-${this.number}`;
  }

  take(frame) {
    if (frame.type === "created" && frame.ref === this.ref) {
      this.pending = false;
      this.thread.show(frame.conversation, [], false);
      remember();
    } else if (frame.type === "error" && !frame.answer && frame.ref === this.ref) {
      this.pending = false;
      this.problem(frame.message);
      refresh();
    } else if ((frame.conversation?.id || frame.conversation) === this.thread.id && this.thread.id) {
      if (frame.type === "start") announce(texts.answering);
      this.thread.take(frame);
    }
  }

  ended(turn) {
    this.figures();
    if (panes.some((pane) => pane.thread.running)) return;
    announce(turn.state === "failed" ? `${texts.failed}: ${turn.reason}` : texts.done);
  }

  problem(sentence) {
    const box = this.box.querySelector(".compare-problem");
    box.textContent = sentence;
    box.hidden = !sentence;
  }

  figures() {
    const turn = this.thread.turns.findLast((one) => one.role === "assistant" && one.state !== "streaming");
    const set = (name, text) => { this.box.querySelector(`[data-figure="${name}"]`).textContent = text; };
    const shown = (value) => (value === null || value === undefined ? "–" : milliseconds(value));
    set("first", shown(turn?.first_token_ms));
    set("speed", turn?.tokens_per_second == null ? "–" : turn.tokens_per_second.toFixed(1));
    set("total", shown(turn?.duration_ms));
  }

  draw() {
    const service = serviceOf(this.target);
    fillPicker(this.picker, this.target);
    drawChip(this.box.querySelector(".compare-chip"), service);
    this.tab.textContent = service?.name || texts.choose;
    const open = this.box.querySelector(".compare-open");
    open.hidden = !this.thread.id;
    if (this.thread.id) open.href = `${data.page_url}${this.thread.id}/`;
    this.figures();
  }
}

function take(frame) {
  for (const pane of panes) pane.take(frame);
}

function send(content) {
  for (const pane of panes) pane.send(content);
  refresh();
}

function refresh() {
  if (panes.length < data.panes) return;
  for (const pane of panes) pane.draw();
  const whys = panes.map((pane) => whyNot(serviceOf(pane.target)));
  const busy = panes.some((pane) => pane.thread.running || pane.pending);
  composer.set(busy, whys.every((why) => why.length) ? whys[0] : []);
}

// The address holds what is compared and where, so that a reload goes on in mid-answer.
function remember() {
  const targets = panes.map((pane) => pane.target || "").join(",");
  const ids = panes.map((pane) => pane.thread.id || "").join(",");
  history.replaceState(null, "", `${data.compare_url}?targets=${targets}&conversations=${ids}`);
}

document.querySelector(".compare-tabs").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  const now = panes.findIndex((pane) => pane.tab === document.activeElement);
  const next = panes[(now + step + panes.length) % panes.length];
  showTab(next.number);
  next.tab.focus();
});

function showTab(number) {
  for (const pane of panes) {
    pane.tab.tabIndex = pane.number === number ? 0 : -1;
    pane.box.toggleAttribute("data-shown", pane.number === number);
    pane.tab.setAttribute("aria-selected", String(pane.number === number));
    pane.thread.toTheEnd();
  }
}

function maximise(chosen) {
  const on = !chosen.box.hasAttribute("data-maximised");
  byId("compare-panes").toggleAttribute("data-maximised", on);
  for (const pane of panes) pane.box.toggleAttribute("data-maximised", on && pane === chosen);
  const button = chosen.box.querySelector(".compare-maximise");
  button.setAttribute("aria-pressed", String(on));
  button.setAttribute("aria-label", on ? texts.restore : texts.maximise);
  button.querySelector(".material-symbols-outlined").textContent = on ? "close_fullscreen" : "open_in_full";
}

async function begin() {
  const wanted = listed("targets");
  const ready = data.services.map((service) => service.target);
  const made = Array.from({ length: data.panes }, (_, at) => {
    const free = ready.find((target) => !wanted.includes(target) || wanted.indexOf(target) === at);
    const target = serviceOf(wanted[at])?.target || ready[at] || free || firstService()?.target || null;
    return new Pane(at, target);
  });
  panes = made;
  await Promise.all(listed("conversations").map(Number).slice(0, data.panes).map(async (id, at) => {
    if (!id) return;
    try {
      const told = await api("GET", `${data.api_url}/${id}/turns`);
      panes[at].target = told.conversation.target;
      panes[at].thread.show(told.conversation, told.turns, told.more);
    } catch (error) {
      panes[at].problem(error.message);
    }
  }));
  refresh();
  keepLooking(refresh);
  byId("compare").setAttribute("data-ready", "");
}

begin();
