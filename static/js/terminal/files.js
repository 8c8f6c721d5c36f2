/* The files panel: lists a directory of the server in front, downloads and uploads in pieces, each with its progress. */

import { ask, element, icon, say } from "./words.js";

const PIECE_BYTES = 1024 * 1024;

const size = (bytes) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let step = 0;
  let value = bytes;
  while (value >= 1024 && step < units.length - 1) {
    value /= 1024;
    step += 1;
  }
  return `${step ? value.toFixed(1) : value} ${units[step]}`;
};

/* Asks before what is there is lost. */
function mayReplace(name) {
  const dialog = document.getElementById("replace-dialog");
  dialog.querySelector("h2").textContent = say("replace", name);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((answer) => {
    const closed = () => {
      if (dialog.open) return; // that was the question before
      dialog.removeEventListener("close", closed);
      answer(dialog.returnValue === "replace");
    };
    dialog.addEventListener("close", closed);
  });
}

export class Files {
  constructor(panel, facts) {
    this.panel = panel;
    this.facts = facts;
    this.path = ".";
    for (const name of ["path", "problem", "list"]) this[`${name}Box`] = document.getElementById(`files-${name}`);
    document.getElementById("files-go").addEventListener("submit", (event) => {
      event.preventDefault();
      this.list(this.pathBox.value);
    });
    document.getElementById("files-upload")?.addEventListener("change", async (event) => {
      const chosen = [...event.target.files];
      event.target.value = "";
      await this.uploadAll(chosen);
    });
    panel.addEventListener("dragover", (event) => event.preventDefault());
    panel.addEventListener("drop", async (event) => {
      event.preventDefault();
      if (facts.mayUpload) await this.uploadAll([...event.dataTransfer.files]);
    });
  }

  url(what, parameters, server = this.server) {
    return `/api/servers/${server}/files${what}?${new URLSearchParams(parameters)}`;
  }

  /* Another server is in front: nothing of the one before stays, so that no click goes to the wrong one. */
  at(server) {
    if (server === this.server) return;
    const isFirst = !this.server;
    this.server = server;
    if (!isFirst) this.leave();
    if (!this.panel.hidden) this.list(this.path);
  }

  leave() {
    this.path = this.pathBox.value = ".";
    this.names = this.asked = null;
    this.listBox.replaceChildren();
    this.problem("");
  }

  open(server) {
    this.at(server);
    if (!this.asked) this.list(this.path);
  }

  async list(path) {
    this.problem("");
    const asked = (this.asked = {}); // a slow answer must not replace a later one
    const typed = this.pathBox.value; // nor what somebody types meanwhile, or is about to
    try {
      const found = await (await ask("GET", this.url("", { path }))).json();
      if (asked !== this.asked) return;
      this.path = found.path;
      const isFree = path === typed || document.activeElement !== this.pathBox;
      if (isFree && this.pathBox.value === typed) this.pathBox.value = found.path;
      this.names = new Set(found.entries.map((entry) => entry.name));
      const lines = found.entries.map((entry) => this.line(entry));
      if (found.path !== "/") lines.unshift(this.directory("..", say("parent"), found.path.replace(/\/[^/]*$/, "") || "/"));
      if (!found.entries.length) lines.push(element("li", { class: "term-soft" }, say("empty")));
      if (found.truncated) lines.push(element("li", { class: "term-soft" }, say("more", found.entries.length)));
      this.listBox.replaceChildren(...lines);
    } catch (failed) {
      if (asked !== this.asked) return;
      if (!this.names) this.listBox.replaceChildren();
      this.problem(failed.message);
    }
  }

  below(name) {
    return `${this.path.replace(/\/$/, "")}/${name}`;
  }

  line(entry) {
    if (entry.kind === "directory") return this.directory(entry.name, entry.name, this.below(entry.name));
    const about = element("span", { class: "term-soft" }, size(entry.size));
    const named = [icon(entry.kind === "file" ? "draft" : "link"), element("span", { class: "term-file" }, entry.name)];
    if (!this.facts.mayDownload || entry.kind === "other") return element("li", {}, element("span", { class: "term-plain" }, ...named), about);
    const fetch = () => this.download(this.below(entry.name), entry.name);
    return element("li", {}, element("button", { type: "button", class: "term-link", title: entry.name, onclick: fetch }, ...named), about);
  }

  directory(name, title, path) {
    const inside = [icon("folder"), element("span", { class: "term-file" }, name)];
    return element("li", {}, element("button", { type: "button", class: "term-link", title, onclick: () => this.list(path) }, ...inside));
  }

  problem(text) {
    this.problemBox.hidden = !text;
    this.problemBox.textContent = text;
  }

  /* A line with a bar and a way out; `work` gets a function that tells how far it is and a signal that says stop. */
  async transfer(text, name, work) {
    const bar = element("progress", { max: "1", value: "0", "aria-label": say(text, name) });
    const stop = new AbortController();
    const label = element("span", { class: "term-file" }, say(text, name));
    const cancel = element("button", { type: "button", class: "term-icon", "aria-label": say("cancel"), onclick: () => stop.abort() }, icon("close"));
    const line = element("li", {}, label, bar, cancel);
    document.getElementById("transfers").append(line);
    try {
      await work((done, total) => (bar.value = total ? done / total : 1), stop.signal);
      label.textContent = say("done", name);
      setTimeout(() => line.remove(), 5000);
    } catch (failed) {
      label.textContent = failed.name === "AbortError" ? say("cancelled", name) : failed.message;
      if (failed.name !== "AbortError") label.classList.add("term-reason");
      setTimeout(() => line.remove(), 15000);
    }
    bar.remove();
    cancel.remove();
  }

  download(path, name) {
    const { server } = this; // another one may come to the front meanwhile
    return this.transfer("downloading", name, async (tell, signal) => {
      const pieces = [];
      let done = 0;
      let total = 1;
      let transfer = "";
      while (done < total) {
        const headers = { Range: `bytes=${done}-${done + PIECE_BYTES - 1}`, Accept: "*/*" };
        const answer = await ask("GET", this.url("/download", { path, transfer }, server), { headers, signal });
        const piece = await answer.blob();
        transfer = answer.headers.get("X-Transfer") || transfer;
        total = Number((answer.headers.get("Content-Range") || "").split("/")[1] || piece.size);
        if (!piece.size && total) throw new Error(say("shorter", name));
        pieces.push(piece);
        done += piece.size;
        tell(done, total);
      }
      const link = element("a", { href: URL.createObjectURL(new Blob(pieces)), download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    });
  }

  /* All to where the panel is now, whatever it shows while they are on their way. */
  async uploadAll(files) {
    const { server, path, names } = this;
    for (const file of files) await this.upload(file, { server, directory: path, names });
  }

  async upload(file, { server, directory, names }) {
    if (names?.has(file.name) && !(await mayReplace(file.name))) return null;
    const path = `${directory.replace(/\/$/, "")}/${file.name}`;
    return this.transfer("uploading", file.name, async (tell, signal) => {
      let done = 0;
      let transfer = "";
      do {
        const parameters = { path, transfer, offset: done, size: file.size };
        const body = file.slice(done, done + PIECE_BYTES);
        try {
          const headers = { "Content-Type": "application/octet-stream" };
          const answer = await (await ask("POST", this.url("/upload", parameters, server), { body, headers, signal })).json();
          transfer = answer.transfer;
          done = answer.received;
        } catch (failed) {
          if (transfer) await ask("DELETE", this.url("/upload", { path, transfer }, server)).catch(() => null);
          throw failed;
        }
        tell(done, file.size);
      } while (done < file.size);
      if (server === this.server && directory === this.path) await this.list(directory);
    });
  }
}
