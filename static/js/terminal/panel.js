/* What stands over a terminal that is not connected: why, and what can be done about it. */

import { ask, element, say } from "./words.js";

/* Whose key that is: of a server that is reached over others it may be one of theirs. */
async function holder(about, fingerprint) {
  let server = { id: about.server, name: about.serverName };
  for (let hop = 0; hop < 4 && server.id; hop += 1) {
    const known = await (await ask("GET", `/api/servers/${server.id}/host-key`)).json();
    if (known.offered_fingerprint === fingerprint) return server;
    const { jump_id: jump } = await (await ask("GET", `/api/servers/${server.id}`)).json();
    server = { id: jump, name: jump && (await (await ask("GET", `/api/servers/${jump}`)).json()).name };
  }
  return null; // it offers another by now
}

export class Panel {
  constructor(pane, facts) {
    this.facts = facts;
    this.box = element("div", { class: "term-over", role: "alert", hidden: true });
    pane.append(this.box);
  }

  show(shell, act) {
    const over = ["exited", "refused"].includes(shell.state);
    this.box.hidden = !over;
    if (over) this.box.replaceChildren(...(shell.exit ? this.exited(shell, act) : this.refused(shell, act)));
  }

  exited(shell, act) {
    const { exit } = shell;
    let text = exit.message || say("over");
    if (exit.reason === "exit" && exit.status !== null) text = say("exit", exit.status);
    else if (exit.signal) text = say("signal", exit.signal);
    else if (exit.reason === "closed") text = say("closed");
    else if (exit.reason === "left") text = say("left");
    return [element("p", {}, text), this.buttons(shell.about.observe ? null : this.button(say("again"), act.again, true))];
  }

  refused(shell, act) {
    const problem = shell.problem || { message: say("unreachable") };
    if (problem.fingerprint) {
      if (problem.holder && problem.code === "host_key_unknown") return this.firstKey(problem, act);
      if (problem.holder && problem.code === "host_key_changed") return this.changedKey(problem, act);
      if (problem.holder === undefined) this.find(shell, problem);
    }
    const again = shell.about.observe ? null : this.button(say("again"), act.again);
    if (problem.code === "taken") return [element("p", {}, problem.message), this.buttons(this.button(say("here"), act.retry, true))];
    if (["session_unknown", "session_over", "session_elsewhere"].includes(problem.code)) return [element("p", {}, problem.message), this.buttons(again)];
    return [element("p", {}, problem.message), this.buttons(this.button(say("retry"), act.retry, true), this.page(shell.about.server))];
  }

  async find(shell, problem) {
    problem.holder = null;
    problem.holder = await holder(shell.about, problem.fingerprint).catch(() => null);
    if (shell.problem === problem && problem.holder) shell.changed(shell);
  }

  firstKey({ holder: server, key, fingerprint }, act) {
    const failed = element("p", { class: "term-reason" });
    const confirm = async (event) => {
      event.target.disabled = true;
      try {
        const body = JSON.stringify({ fingerprint }); // what it offers now, or nothing
        await ask("POST", `/api/servers/${server.id}/host-key`, { body, headers: { "Content-Type": "application/json" } });
        act.retry();
      } catch (refusal) {
        failed.textContent = refusal.message;
        event.target.disabled = false;
      }
    };
    return [
      element("p", {}, say("first-key", server.name)),
      element("p", { class: "term-print" }, `${(key || "").split(" ")[0]} `, element("code", {}, fingerprint)),
      element("p", { class: "term-soft" }, say("first-key-help")),
      failed,
      this.buttons(this.button(say("confirm-key"), confirm, true), this.button(say("cancel"), act.close)),
    ];
  }

  changedKey({ holder: server, fingerprint, pinned_fingerprint: pinned }, act) {
    const line = (name, print) => element("div", {}, element("dt", {}, name), element("dd", {}, element("code", {}, print)));
    return [
      element("p", { class: "term-reason" }, say("changed-key", server.name)),
      element("dl", { class: "term-prints" }, line(say("pinned"), pinned), line(say("offered"), fingerprint)),
      element("p", { class: "term-soft" }, say("changed-key-help")),
      this.buttons(this.page(server.id), this.button(say("retry"), act.retry)),
    ];
  }

  page(server) {
    return element("a", { class: "term-button", href: `${this.facts.admin}inventory/server/${server}/` }, say("server-page"));
  }

  button(text, act, primary = false) {
    return element("button", { type: "button", class: `term-button${primary ? " term-primary" : ""}`, onclick: act }, text);
  }

  buttons(...made) {
    return element("p", { class: "term-buttons" }, ...made);
  }
}
