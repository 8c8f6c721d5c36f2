// A conversation's system prompt and parameters; saved as they are changed, kept for the first question before that.

import { api, data, fill, texts } from "./chat_api.js";

const SAVE_AFTER_MS = 600;
const SAID_MS = 2000;

export class Settings {
  constructor(form, saved, problem) {
    this.form = form;
    this.saved = saved;
    this.problem = problem;
    this.timer = 0;
    form.addEventListener("submit", (event) => event.preventDefault());
    addEventListener("pagehide", () => this.flush());
    form.addEventListener("input", () => {
      clearTimeout(this.timer);
      saved.textContent = "";
      this.timer = setTimeout(() => this.save(), SAVE_AFTER_MS);
    });
  }

  show(id, settings) {
    this.id = id;
    const given = { ...settings?.parameters, system_prompt: settings?.system_prompt };
    for (const field of this.form.elements) {
      const value = given[field.name] ?? "";
      if (field.name) field.value = Array.isArray(value) ? value.join("\n") : value;
    }
    this.tell("");
  }

  /** Adopts the conversation that was begun with what stands here. */
  adopt(id) {
    this.id = id;
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
  async flush() {
    if (!this.timer) return;
    clearTimeout(this.timer);
    await this.save();
  }

  async save() {
    this.timer = 0;
    if (!this.form.checkValidity()) {
      this.form.reportValidity();
      return;
    }
    this.tell("");
    if (!this.id) return;
    try {
      await api("PATCH", `${data.api_url}/${this.id}`, this.read());
      this.saved.textContent = texts.saved;
      setTimeout(() => { this.saved.textContent = ""; }, SAID_MS);
    } catch (error) {
      this.tell(fill(texts.save_failed, error.message));
    }
  }

  tell(sentence) {
    this.problem.textContent = sentence;
    this.problem.hidden = !sentence;
  }
}
