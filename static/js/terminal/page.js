/* The terminal page: tabs, tools, the phone's keys, and what is said of the terminal in front. */

import { copied } from "../clipboard.js";
import { dayText } from "../clock.js";
import { Files } from "./files.js";
import { Panel } from "./panel.js";
import { Shell, theme } from "./shell.js";
import { ask, element, icon, middleCut, say } from "./words.js";

const facts = document.getElementById("terminals").dataset;
const byId = (id) => document.getElementById(id);
const KEYS = { Esc: "\x1b", Tab: "\t", Left: "D", Up: "A", Down: "B", Right: "C" };
const STORED = "infini.terminals";

class Page {
  constructor() {
    this.tabs = [];
    this.front = null;
    this.fontSize = Number(localStorage.getItem("infini.terminal.font")) || 14;
    this.files = byId("files") ? new Files(byId("files"), facts) : null;
    this.listen();
    this.restore();
    this.tick = setInterval(() => this.tabs.some((tab) => tab.shell.idleUntil) && this.tell(), 1000);
  }

  /* Tabs of this browser tab are found again after a reload. */
  restore() {
    let stored = [];
    try {
      stored = JSON.parse(sessionStorage.getItem(STORED)) || [];
    } catch {
      stored = [];
    }
    for (const about of stored) this.add(about, false);
    const wanted = { server: facts.server, serverName: facts.serverName, service: facts.service, serviceName: facts.serviceName };
    const asked = location.search;
    if (facts.server && !this.tabs.some((tab) => tab.asked === asked)) {
      this.add({ ...wanted, observe: facts.observe, session: facts.session, asked }, true);
    }
    const front = this.tabs.find((tab) => tab.asked === location.search) || this.tabs.at(-1);
    if (front) this.bring(front);
    else this.choose();
  }

  store() {
    const kept = this.tabs.filter((tab) => tab.shell.about.observe || tab.shell.state !== "exited").map((tab) => ({ ...tab.shell.about, asked: tab.asked }));
    sessionStorage.setItem(STORED, JSON.stringify(kept));
  }

  add({ asked, ...about }, bring = true) {
    const pane = element("div", { class: `term-pane${about.observe ? " is-watching" : ""}`, role: "tabpanel", tabindex: "-1" });
    const box = element("div", { class: "term-box" });
    pane.append(box);
    byId("stage").append(pane);
    const tab = { pane, asked, button: null };
    const name = about.serviceName ? `${about.serviceName} @ ${about.serverName}` : about.serverName;
    tab.name = name || `#${about.server}`;
    const label = element("button", { type: "button", role: "tab", class: "term-tab", title: tab.name, onclick: () => this.bring(tab) }, middleCut(tab.name));
    const close = element("button", { type: "button", class: "term-tab-close", "aria-label": say("close-tab", tab.name), onclick: () => this.shut(tab) }, icon("close"));
    tab.button = element("span", { class: "term-tab-box" }, label, close);
    tab.label = label;
    byId("tabs").append(tab.button);
    this.tabs.push(tab);
    byId("choice").hidden = true;
    for (const other of this.tabs) other.pane.hidden = other !== tab;
    tab.panel = new Panel(pane, facts);
    tab.shell = new Shell(about, box, this.fontSize, () => this.changed(tab));
    tab.shell.term.attachCustomKeyEventHandler((event) => this.key(event));
    box.addEventListener("paste", (event) => this.paste(event, tab), true);
    tab.shell.fitted();
    if (bring) this.bring(tab);
    return tab;
  }

  bring(tab) {
    this.front = tab;
    byId("choice").hidden = true;
    for (const other of this.tabs) {
      other.pane.hidden = other !== tab;
      other.label.setAttribute("aria-selected", String(other === tab));
      other.button.classList.toggle("is-front", other === tab);
    }
    tab.shell.fitted();
    tab.shell.term.focus();
    this.files?.at(tab.shell.about.server);
    this.tell();
  }

  shut(tab) {
    const { state, about } = tab.shell;
    if (["connected", "reconnecting"].includes(state) && about.session && !about.observe) {
      this.bring(tab);
      this.confirmEnd(() => this.remove(tab));
      return;
    }
    this.remove(tab);
  }

  remove(tab) {
    tab.shell.close();
    tab.pane.remove();
    tab.button.remove();
    this.tabs = this.tabs.filter((other) => other !== tab);
    if (tab.asked === location.search) history.replaceState(null, "", location.pathname); // else a reload opened it again
    this.store();
    if (this.front !== tab) return;
    this.front = null;
    if (this.tabs.length) this.bring(this.tabs.at(-1));
    else this.choose();
  }

  /* What is said of a terminal */

  changed(tab) {
    if (!tab.shell) return;
    this.store();
    tab.button.dataset.state = tab.shell.state;
    tab.panel.show(tab.shell, { again: () => tab.shell.again(), retry: () => tab.shell.retry(), close: () => this.remove(tab) });
    if (tab !== this.front && !tab.shell.idleUntil) return;
    this.tell();
    if (tab === this.front && tab.shell.state === "connected" && document.activeElement === document.body) tab.shell.term.focus();
  }

  tell() {
    const shell = this.front?.shell;
    for (const id of ["find", "copy", "files-toggle"]) if (byId(id)) byId(id).disabled = !shell;
    byId("share").disabled = shell?.state !== "connected";
    byId("end").disabled = !shell || ["exited", "refused"].includes(shell.state);
    byId("notice").hidden = true;
    byId("facts").replaceChildren();
    if (!shell) return;
    document.title = this.front.name;
    const parts = [];
    const isOpen = !["exited", "refused"].includes(shell.state);
    if (shell.recorded && isOpen) parts.push(element("span", { class: "term-chip term-chip-bad", title: say("recorded") }, icon("radio_button_checked"), say("recorded")));
    if (shell.observers.length && isOpen) parts.push(element("span", { class: "term-chip" }, icon("visibility"), say("observers", shell.observers.join(", "))));
    byId("facts").replaceChildren(...parts);
    byId("share").hidden = Boolean(shell.about.observe);
    byId("end").hidden = Boolean(shell.about.observe);
    byId("share").setAttribute("aria-pressed", String(Boolean(shell.shared)));
    const idle = this.tabs.find((tab) => tab.shell.idleUntil); // behind the front it would end unseen
    let text = "";
    if (shell.state === "connecting") text = say("connecting");
    else if (shell.state === "reconnecting") text = say("reconnecting");
    else if (shell.idleUntil) text = this.idle(this.front);
    else if (shell.lost) text = say("paste-lost");
    else if (idle) text = `${idle.name}: ${this.idle(idle)}`;
    else if (shell.about.observe && shell.state === "connected") text = say("watching", shell.owner);
    if (shell.skipped) text = `${text} ${say("skipped", shell.skipped.toLocaleString())}`.trim();
    const warns = shell.state === "reconnecting" || Boolean(idle || shell.lost);
    this.notice((!warns && this.flashed) || text, warns);
  }

  idle({ shell }) {
    return say("idle", Math.max(0, Math.round((shell.idleUntil - Date.now()) / 1000)));
  }

  notice(text, warns = false) {
    const notice = byId("notice");
    notice.hidden = !text;
    notice.classList.toggle("is-warning", warns);
    if (notice.textContent !== text) notice.textContent = text;
    this.front?.shell.fitted();
  }

  /* For a while, whatever else is told meanwhile, unless it warns. */
  flash(text, milliseconds = 3000) {
    this.flashed = text;
    clearTimeout(this.flashing);
    this.flashing = setTimeout(() => {
      this.flashed = "";
      this.tell();
    }, milliseconds);
    this.tell();
  }

  /* Tools */

  listen() {
    byId("new").addEventListener("click", () => this.choose());
    byId("servers").addEventListener("click", (event) => {
      const button = event.target.closest("[data-open]");
      if (button) this.add({ server: button.dataset.open, serverName: button.dataset.name });
    });
    byId("server-filter").addEventListener("input", (event) => {
      const wanted = event.target.value.trim().toLowerCase();
      for (const line of byId("servers").children) line.hidden = !(line.dataset.name || "").includes(wanted);
    });
    byId("smaller").addEventListener("click", () => this.font(-1));
    byId("larger").addEventListener("click", () => this.font(1));
    byId("full").addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()));
    byId("copy").addEventListener("click", () => this.copy());
    byId("share").addEventListener("click", () => this.share());
    byId("end").addEventListener("click", () => this.front && this.confirmEnd(() => null));
    byId("files-toggle")?.addEventListener("click", () => this.toggleFiles());
    byId("files-close")?.addEventListener("click", () => this.toggleFiles());
    byId("find").addEventListener("click", () => this.find());
    byId("find-close").addEventListener("click", () => this.closeFind());
    byId("find-bar").addEventListener("submit", (event) => {
      event.preventDefault();
      this.search("findNext");
    });
    byId("find-text").addEventListener("input", () => this.search("findNext", true));
    byId("find-previous").addEventListener("click", () => this.search("findPrevious"));
    byId("keys").addEventListener("pointerdown", (event) => this.phoneKey(event));
    document.addEventListener("keydown", (event) => {
      if (!this.key(event) && event.code !== "KeyV") event.preventDefault();
    });
    document.addEventListener("theme", () => this.tabs.forEach((tab) => (tab.shell.term.options.theme = theme())));
    window.addEventListener("online", () => this.tabs.forEach((tab) => tab.shell.hurry()));
    new ResizeObserver(() => this.front?.shell.fitted()).observe(byId("stage"));
  }

  /* False keeps the key from the shell. */
  key(event) {
    if (event.type !== "keydown") return true;
    if (event.ctrlKey && event.altKey && event.code >= "Digit1" && event.code <= "Digit9") {
      const tab = this.tabs[Number(event.code.slice(5)) - 1];
      if (tab && tab !== this.front) this.bring(tab);
      return false;
    }
    if (event.ctrlKey && event.shiftKey && event.code === "KeyC") {
      this.copy();
      event.preventDefault();
      return false;
    }
    if (event.ctrlKey && event.shiftKey && event.code === "KeyF") {
      this.find();
      event.preventDefault();
      return false;
    }
    if (event.key === "Escape" && !byId("find-bar").hidden && byId("find-bar").contains(document.activeElement)) {
      this.closeFind();
      return false;
    }
    return !(event.ctrlKey && event.shiftKey && event.code === "KeyV"); // the browser's paste, which asks first
  }

  font(by) {
    this.fontSize = Math.min(32, Math.max(8, this.fontSize + by));
    localStorage.setItem("infini.terminal.font", String(this.fontSize));
    for (const tab of this.tabs) tab.shell.term.options.fontSize = this.fontSize;
    this.front?.shell.fitted();
  }

  async copy() {
    const text = this.front?.shell.term.getSelection();
    if (!text) {
      this.flash(say("nothing"));
      return;
    }
    const done = await copied(text);
    this.front?.shell.term.focus();
    this.flash(say(done ? "copied" : "not-copied"));
  }

  paste(event, tab) {
    const text = event.clipboardData?.getData("text/plain") || "";
    const lines = text.replace(/[\r\n]+$/, "").split(/\r\n|\r|\n/).length; // a shell takes each of them for Enter
    if (lines < 2) return; // xterm's own
    event.preventDefault();
    event.stopImmediatePropagation();
    byId("paste-title").textContent = say("paste", lines.toLocaleString());
    byId("paste-text").textContent = text.length > 2000 ? `${text.slice(0, 2000)}…` : text;
    this.confirm("paste-dialog", "paste", () => tab.shell.term.paste(text));
  }

  confirm(id, value, then) {
    const dialog = byId(id);
    dialog.returnValue = "";
    dialog.onclose = () => {
      if (dialog.returnValue === value) then();
      this.front?.shell.term.focus();
    };
    dialog.showModal();
  }

  confirmEnd(then) {
    this.confirm("end-dialog", "end", () => {
      this.front.shell.end().catch((problem) => this.flash(problem.message));
      then();
    });
  }

  async share() {
    const { shell } = this.front;
    shell.shared = !shell.shared;
    shell.control({ type: "share", on: shell.shared });
    const link = `${location.origin}${location.pathname}?server=${shell.about.server}&observe=${shell.about.session}`;
    this.tell();
    if (!shell.shared) this.flash(say("unshared"));
    else if (await copied(link)) this.flash(say("shared"));
    else this.flash(say("shared-link", link), 30000);
  }

  toggleFiles() {
    const panel = byId("files");
    panel.hidden = !panel.hidden;
    byId("files-toggle").setAttribute("aria-expanded", String(!panel.hidden));
    if (!panel.hidden && this.front) this.files.open(this.front.shell.about.server);
    this.front?.shell.fitted();
  }

  find() {
    byId("find-bar").hidden = false;
    byId("find-text").focus();
    byId("find-text").select();
    this.front?.shell.fitted();
  }

  closeFind() {
    byId("find-bar").hidden = true;
    byId("find-found").textContent = "";
    this.front?.shell.finder.clearDecorations();
    this.front?.shell.fitted();
    this.front?.shell.term.focus();
  }

  search(step, incremental = false) {
    const text = byId("find-text").value;
    const found = text && this.front?.shell.finder[step](text, { incremental });
    byId("find-found").textContent = text && !found ? say("not-found") : "";
  }

  phoneKey(event) {
    const button = event.target.closest("[data-key]");
    if (!button || !this.front) return;
    event.preventDefault(); // the keyboard of the phone stays
    const { shell } = this.front;
    const { key } = button.dataset;
    if (key === "Ctrl") {
      const held = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(held));
      shell.withCtrl = held ? () => {
        button.setAttribute("aria-pressed", "false");
        shell.withCtrl = null;
      } : null;
      return;
    }
    const arrow = "ABCD".includes(KEYS[key] || "-") && KEYS[key];
    const start = shell.term.modes.applicationCursorKeysMode ? "\x1bO" : "\x1b[";
    shell.type(arrow ? start + arrow : KEYS[key] || key);
  }

  /* Choosing: servers, and what is open already */

  async choose() {
    this.front = null;
    for (const tab of this.tabs) {
      tab.pane.hidden = true;
      tab.label.setAttribute("aria-selected", "false");
      tab.button.classList.remove("is-front");
    }
    byId("choice").hidden = false;
    byId("find-bar").hidden = true;
    if (byId("files") && !byId("files").hidden) this.toggleFiles();
    this.tell();
    byId("server-filter").focus();
    const list = byId("mine");
    try {
      const open = await (await ask("GET", "/api/terminals")).json();
      list.replaceChildren(...open.map((row) => this.openLine(row)));
      if (!open.length) list.append(element("li", { class: "term-soft" }, say("none")));
    } catch (problem) {
      list.replaceChildren(element("li", { class: "term-reason" }, problem.message));
    }
  }

  openLine(row) {
    const mine = row.user === facts.user;
    const about = { server: String(row.server_id), serverName: row.server };
    const open = () => {
      const there = this.tabs.find((tab) => tab.shell.about.session === row.id);
      if (there) this.bring(there);
      else this.add(mine ? { ...about, session: row.id } : { ...about, observe: row.id });
    };
    const end = async (event) => {
      event.target.disabled = true;
      await ask("DELETE", `/api/terminals/${row.id}`).catch(() => null);
      event.target.closest("li").remove();
    };
    const since = say("mine", dayText(new Date(row.opened_at)));
    return element("li", {},
      element("strong", {}, row.server), " ", element("span", { class: "term-soft" }, `${row.user}, ${since}`), " ",
      element("button", { type: "button", class: "term-button", onclick: open }, say(mine ? "attach" : "watch")),
      element("button", { type: "button", class: "term-button", onclick: end }, say("end")));
  }
}

new Page();
