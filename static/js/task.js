"use strict";
/* The form of a task: only the fields of the chosen schedule are shown, and what the task as it is written would do. The
   form of a command that runs once has no schedule: it shows the servers alone. */
(() => {
  const NEEDS = {
    once: ["run_at"],
    interval: ["interval_seconds"],
    daily: ["time_of_day"],
    weekly: ["weekday", "time_of_day"],
    cron: ["cron"],
  };
  const OWN = [...new Set(Object.values(NEEDS).flat())];
  const NUMBERS = ["interval_seconds", "weekday"];
  const WAIT_MS = 400;
  let timer = 0;
  let asked = 0;

  const field = (name) => document.getElementById(`id_${name}`);
  const row = (name) => document.querySelector(`.field-${name}`) || field(name)?.closest(".form-row, .field-row");

  const schedule = () => field("schedule_type")?.value || "once";

  function showNeeded() {
    const needed = NEEDS[schedule()] || [];
    for (const name of OWN) {
      const box = row(name);
      if (box) box.hidden = !needed.includes(name);
    }
  }

  function parameters() {
    const values = {};
    for (const line of field("environment").value.split("\n")) {
      const [name, ...rest] = line.split("=");
      if (rest.length) values[name.trim()] = rest.join("=");
    }
    return values;
  }

  function draft() {
    const type = schedule();
    const body = { schedule_type: type, enabled: true, environment: parameters() };
    for (const name of ["command", "selector", "account", "timezone"]) if (field(name)) body[name] = field(name).value;
    body.server_ids = [...field("on_servers").selectedOptions].map((option) => Number(option.value));
    for (const name of NEEDS[type] || []) {
      const value = field(name)?.value || "";
      if (name === "run_at") {
        if (value) body.run_local = value; // its moment depends on the zone: the server reckons it
        continue;
      }
      if (value !== "") body[name] = NUMBERS.includes(name) ? Number(value) : value;
    }
    for (const name of ["window_opens", "window_closes"]) {
      const value = field(name)?.value;
      if (value) body[name] = value;
    }
    return body;
  }

  function element(tag, text, className) {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function list(items, className) {
    const made = element("ul", "", className);
    made.append(...items);
    return made;
  }

  function moment(text, zone) {
    const options = { timeZone: zone, dateStyle: "full", timeStyle: "medium" };
    try {
      return new Intl.DateTimeFormat(document.documentElement.lang || "en", options).format(new Date(text));
    } catch {
      return text;
    }
  }

  function aimLine(aim, words) {
    const where = [aim.server, aim.host && `(${aim.account ? `${aim.account}@` : ""}${aim.host})`].filter(Boolean).join(" ");
    const line = element("li", where);
    const note = aim.obstacle || (aim.maintenance ? words.maintenance : "");
    if (note) line.append(" ", element("span", note, "obstacle"));
    return line;
  }

  function show(box, answer, zone) {
    const words = box.dataset;
    const parts = [];
    if (answer.next) {
      parts.push(element("h4", words.next));
      parts.push(answer.next.length ? list(answer.next.map((at) => element("li", moment(at, zone)))) : element("p", words.never));
    }
    const aims = answer.targets || [];
    parts.push(element("h4", aims.length ? words.targets.replace("%s", aims.length) : words.nobody));
    if (aims.length) parts.push(list(aims.map((aim) => aimLine(aim, words)), "preview-targets"));
    const idle = answer.idle_terms || [];
    if (idle.length) parts.push(element("p", words.idle.replace("%s", idle.join(", ")), "obstacle"));
    box.replaceChildren(...parts);
  }

  function labelOf(name) {
    const label = document.querySelector(`label[for="id_${name === "server_ids" ? "on_servers" : name}"]`);
    return label ? label.textContent.trim().replace(/\*$/, "") : "";
  }

  function showWrong(box, error) {
    const labels = Object.entries(error.fields || { "": [error.message] });
    const said = labels.map(([name, texts]) => element("li", [labelOf(name), texts.join(" ")].filter(Boolean).join(": ")));
    box.replaceChildren(element("h4", box.dataset.wrong), list(said));
  }

  /* What has to be written before there is anything to tell; the moment of a task that runs once is not needed for it. */
  function lacking() {
    const names = ["command", ...(NEEDS[schedule()] || [])].filter((name) => name !== "run_at" && !field(name)?.value.trim());
    const aimed = field("on_servers").selectedOptions.length || field("selector")?.value.trim();
    return aimed ? names : [...names, "on_servers"];
  }

  async function ask(box, pressed = false) {
    const number = (asked += 1);
    const names = lacking();
    if (names.length) {
      box.hidden = !pressed;
      return box.replaceChildren(element("h4", box.dataset.wrong), list(names.map((name) => element("li", labelOf(name)))));
    }
    const body = draft();
    const zone = body.timezone;
    const momentless = body.schedule_type === "once" && !body.run_local;
    if (momentless) {
      Object.assign(body, { schedule_type: "interval", interval_seconds: 60 }); // for the servers alone
    }
    const token = document.querySelector("input[name=csrfmiddlewaretoken]").value;
    try {
      const answer = await fetch(box.dataset.url, {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-CSRFToken": token },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(10000),
      });
      const said = await answer.json();
      if (number !== asked) return;
      box.hidden = false;
      if (answer.ok) show(box, momentless ? { ...said, next: null } : said, zone);
      else showWrong(box, said.error);
    } catch (problem) {
      console.warn("no preview:", problem.message);
    }
  }

  function later(box) {
    clearTimeout(timer);
    timer = setTimeout(() => ask(box), WAIT_MS);
  }

  function ownZone() {
    const zone = field("timezone");
    const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
    const isNew = location.pathname.endsWith("/add/");
    if (isNew && zone.value === "UTC" && own && document.querySelector(`#zones option[value="${CSS.escape(own)}"]`)) zone.value = own;
  }

  document.addEventListener("DOMContentLoaded", () => {
    const box = document.getElementById("task-preview");
    if (!box || !field("command")) return;
    const form = field("command").form;
    box.setAttribute("role", "status");
    row(field("timezone") ? "timezone" : "account")?.insertAdjacentElement("afterend", box);
    if (field("timezone")) ownZone();
    else form.dataset.asks = ""; // before a command goes to many servers (dialog.js)
    showNeeded();
    const dry = element("button", box.dataset.dry, "btn");
    dry.type = "button";
    dry.addEventListener("click", () => ask(box, true));
    box.insertAdjacentElement("afterend", dry);
    for (const kind of ["input", "change"]) {
      form.addEventListener(kind, () => {
        showNeeded();
        later(box);
      });
    }
    // The list of servers is a widget that tells jQuery alone of its changes.
    window.django?.jQuery?.(field("on_servers")).on("change", () => later(box));
    later(box);
  });
})();
