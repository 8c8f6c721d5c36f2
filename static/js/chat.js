// The chat page: one conversation between the list of all and its settings.

import { api, data, texts } from "./chat_api.js";
import { Composer, announce } from "./chat_composer.js";
import { closeDrawers } from "./chat_drawers.js";
import { ConversationList } from "./chat_list.js";
import { asFrame, drawChip, fillPicker, firstService, keepLooking, serviceOf, whyNot } from "./chat_services.js";
import { Settings } from "./chat_settings.js";
import { ChatSocket } from "./chat_socket.js";
import { Thread } from "./chat_thread.js";

const NEW_REF = "new";

const byId = (id) => document.getElementById(id);
const picker = byId("chat-service");
const query = new URLSearchParams(location.search);
const asked = ["service", "endpoint"].filter((kind) => query.get(kind)).map((kind) => `${kind}-${query.get(kind)}`)[0] || null;

let conversation = null; // what is shown; null before its first question
let target = null; // whom a question goes to
let beginning = false;
let thread = null;

const list = new ConversationList(byId("chat-rows"), byId("chat-search"), (id) => go(id));
const settings = new Settings(byId("chat-settings-form"), byId("chat-saved"), byId("chat-settings-problem"));
const composer = new Composer({ send, stop: () => thread.stop() });
const socket = new ChatSocket(take, (open) => {
  const bar = byId("not-live");
  bar.hidden = open;
  if (!open) bar.textContent = texts.not_live;
  if (open) thread.rejoin();
});
thread = new Thread(document.querySelector("[data-thread=chat]"), socket, {
  changed: refresh,
  ended: (turn) => {
    announce(turn.state === "failed" ? `${texts.failed}: ${turn.reason}` : texts[turn.state === "complete" ? "done" : "stopped"]);
    list.reload();
  },
  problem: (sentence) => composer.problem(sentence),
  asked: () => composer.problem(""),
});

function take(frame) {
  if (frame.type === "created" && frame.ref === NEW_REF) begun(frame.conversation);
  else if (frame.type === "error" && !frame.answer) refused(frame);
  const about = frame.conversation?.id || frame.conversation;
  if (about !== thread.id || !about) return;
  if (frame.type === "status") onStatus(frame.conversation);
  if (frame.type === "start") {
    announce(texts.answering);
    list.reload();
  }
  thread.take(frame);
}

function begun(made) {
  beginning = false;
  conversation = { ...made, ...settings.read() };
  thread.show(conversation, [], false);
  settings.adopt(made.id);
  history.replaceState(null, "", `${data.page_url}${made.id}/`);
  list.choose(made.id);
  refresh();
}

function refused(frame) {
  beginning = false;
  composer.problem(frame.message);
  composer.giveBack();
  refresh();
}

function onStatus(told) {
  if (told.gone) {
    go(null);
    list.reload();
    return;
  }
  const renamed = told.title !== conversation.title;
  conversation = { ...conversation, ...told };
  target = told.target;
  if (renamed) list.reload();
  refresh();
}

async function send(content) {
  if (conversation) {
    await settings.save();
    thread.ask({ content });
    return;
  }
  beginning = true;
  refresh();
  socket.say({ type: "send", ref: NEW_REF, ...asFrame(target), content, ...settings.taken() });
}

function refresh() {
  const service = serviceOf(target);
  fillPicker(picker, target);
  drawChip(byId("chat-chip"), service);
  byId("chat-terminal").hidden = !service?.terminal;
  if (service?.terminal) byId("chat-terminal").href = service.terminal;
  composer.set(Boolean(thread?.running), beginning ? [] : whyNot(service));
  const menu = byId("chat-menu");
  menu.hidden = !conversation;
  if (conversation) {
    byId("chat-export-markdown").href = `${data.api_url}/${conversation.id}/export?as=markdown`;
    byId("chat-export-json").href = `${data.api_url}/${conversation.id}/export?as=json`;
  }
  document.title = conversation?.title || texts.untitled;
}

/** Shows another conversation, or (null) a new one, without leaving the page. */
async function go(id, remember = true) {
  try {
    let turns = [];
    let more = false;
    let next = null;
    if (id) {
      next = await api("GET", `${data.api_url}/${id}`);
      ({ turns, more } = await api("GET", `${data.api_url}/${id}/turns`));
    }
    if (remember) history.pushState(null, "", id ? `${data.page_url}${id}/` : data.page_url);
    closeDrawers();
    show(next, turns, more);
    composer.field.focus();
  } catch (error) {
    composer.problem(error.message);
  }
}

function show(next, turns, more) {
  conversation = next;
  target = next?.target || (serviceOf(asked) || serviceOf(target) || firstService())?.target || null;
  composer.problem("");
  announce("");
  settings.show(next?.id, next);
  thread.show(next, turns, more);
  list.choose(next?.id || null);
  refresh();
}

picker.addEventListener("change", async () => {
  target = picker.value || target;
  refresh();
  if (!conversation) return;
  try {
    const [[kind, id]] = Object.entries(asFrame(target));
    await api("PATCH", `${data.api_url}/${conversation.id}`, { [`${kind}_id`]: id });
    list.reload();
  } catch (error) {
    composer.problem(error.message);
  }
});

byId("chat-new").addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go(null);
});
addEventListener("popstate", () => {
  go(Number(location.pathname.match(/\/(\d+)\/$/)?.[1]) || null, false);
});

byId("chat-rename").addEventListener("click", () => {
  byId("chat-menu").open = false;
  byId("chat-rename-text").value = conversation.title;
  byId("chat-rename-dialog").showModal();
  byId("chat-rename-text").select();
});
byId("chat-rename-text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  byId("chat-rename-dialog").close("rename");
});
byId("chat-rename-dialog").addEventListener("close", () => finishDialog("chat-rename-dialog", "rename", async () => {
  await api("PATCH", `${data.api_url}/${conversation.id}`, { title: byId("chat-rename-text").value });
  conversation.title = byId("chat-rename-text").value;
  list.reload();
  refresh();
}));
byId("chat-delete").addEventListener("click", () => {
  byId("chat-menu").open = false;
  byId("chat-delete-dialog").showModal();
});
byId("chat-delete-dialog").addEventListener("close", () => finishDialog("chat-delete-dialog", "delete", async () => {
  await api("DELETE", `${data.api_url}/${conversation.id}`);
  await go(null);
  list.reload();
}));

async function finishDialog(id, wanted, work) {
  const dialog = byId(id);
  const { returnValue } = dialog;
  dialog.returnValue = "";
  if (returnValue !== wanted) {
    byId("chat-menu").querySelector("summary").focus();
    return;
  }
  try {
    await work();
  } catch (error) {
    composer.problem(error.message);
  }
}
document.addEventListener("click", (event) => {
  if (!event.target.closest("#chat-menu")) byId("chat-menu").open = false;
});

byId("chat-menu").addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  byId("chat-menu").open = false;
  byId("chat-menu").querySelector("summary").focus();
});

keepLooking(refresh);
show(data.conversation, data.turns, data.more);
byId("chat").setAttribute("data-ready", "");
