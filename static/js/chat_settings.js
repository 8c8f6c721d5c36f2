// A conversation's system prompt and parameters; saved as they are changed, kept for the first question before that.

import { api, data, fill, texts } from "./chat_api.js";

const SAVE_AFTER_MS = 600;
const SAID_MS = 2000;
// Where this tab keeps what is not stored yet: a page may be asked for anew before its last change arrived.
const kept = (id) => `chat-settings-${id}`;

export class Settings {
  constructor(form, saved, problem) {
    this.form = form;
    this.saved = saved;
    this.problem = problem;
    this.timer = 0;
    this.storing = null; // what is under way
    this.unsaved = null; // the newest that is valid and not stored yet
    form.addEventListener("submit", (event) => event.preventDefault());
    addEventListener("pagehide", () => this.store());
    form.addEventListener("input", () => {
      clearTimeout(this.timer);
      saved.textContent = "";
      if (form.checkValidity()) this.keep(this.read());
      this.timer = setTimeout(() => this.save(), SAVE_AFTER_MS);
    });
  }

  show(id, settings) {
    clearTimeout(this.timer);
    this.store(); // of the conversation that is left
    this.id = id;
    this.unsaved = id ? JSON.parse(sessionStorage.getItem(kept(id))) : null;
    this.tell("");
    const { parameters, system_prompt } = this.unsaved || settings || {};
    const given = { ...parameters, system_prompt };
    for (const field of this.form.elements) {
      const value = given[field.name] ?? "";
      if (field.name) field.value = Array.isArray(value) ? value.join("\n") : value;
    }
    this.store();
  }

  /** What a conversation is begun with: nothing of it is left to be stored. */
  taken() {
    this.unsaved = null;
    return this.read();
  }

  /** Adopts the conversation that was begun with what was taken. */
  adopt(id) {
    this.id = id;
    if (this.unsaved) this.keep(this.unsaved);
    this.store();
  }

  keep(unsaved) {
    this.unsaved = unsaved;
    if (this.id) sessionStorage.setItem(kept(this.id), JSON.stringify(unsaved));
  }

  read() {
    const parameters = {};
    for (const field of this.form.elements) {
      if (!field.name || field.name === "system_prompt" || field.value.trim() === "") continue;
      if (field.type === "number") parameters[field.name] = Number(field.value);
      else parameters[field.name] = field.value.split("\n").filter(Boolean);
    }
    return { system_prompt: this.form.elements.system_prompt.value, parameters };
  }

  /** What was typed a moment ago is stored before it is asked with. */
  async save() {
    clearTimeout(this.timer);
    if (!this.form.checkValidity()) this.form.reportValidity();
    await this.storing; // or an older one might come in last
    await this.store();
  }

  /** Sends at once, since the page may be left now; what could not be stored is tried again with the next change. */
  store() {
    this.storing = this.send();
    return this.storing;
  }

  async send() {
    const { id, unsaved } = this;
    if (!id || !unsaved) return;
    this.unsaved = null;
    let problem = "";
    try {
      await api("PATCH", `${data.api_url}/${id}`, unsaved);
      if (sessionStorage.getItem(kept(id)) === JSON.stringify(unsaved)) sessionStorage.removeItem(kept(id));
    } catch (error) {
      problem = fill(texts.save_failed, error.message);
    }
    if (this.id !== id) return;
    if (problem) this.unsaved ??= unsaved;
    this.tell(problem);
    if (problem || this.unsaved) return;
    this.saved.textContent = texts.saved;
    setTimeout(() => { this.saved.textContent = ""; }, SAID_MS);
  }

  tell(sentence) {
    this.problem.textContent = sentence;
    this.problem.hidden = !sentence;
  }
}
