// The person's conversations beside the chat: searched, grouped by day, the one that changed last first.

import { api, data, texts } from "./chat_api.js";

const SEARCH_AFTER_MS = 250;

export class ConversationList {
  /** `open(id)` when one is chosen. */
  constructor(box, search, open) {
    this.box = box;
    this.search = search;
    this.rows = data.conversations;
    this.chosen = null;
    let timer = 0;
    search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.reload(), SEARCH_AFTER_MS);
    });
    box.addEventListener("click", (event) => {
      const link = event.target.closest("a");
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      open(Number(link.dataset.id));
    });
  }

  async reload() {
    const search = this.search.value.trim();
    const query = new URLSearchParams({ limit: data.listed_most, ...(search && { search }) });
    try {
      const rows = await api("GET", `${data.api_url}?${query}`);
      if (search !== this.search.value.trim()) return;
      this.rows = rows;
      this.draw();
    } catch (problem) {
      console.warn("conversations not read:", problem.message);
    }
  }

  choose(id) {
    this.chosen = id;
    this.draw();
  }

  draw() {
    const groups = new Map();
    for (const row of this.rows) {
      const day = dayOf(new Date(row.changed_at));
      if (!groups.has(day)) groups.set(day, []);
      groups.get(day).push(row);
    }
    const parts = [...groups].flatMap(([day, rows]) => [heading(day), this.listOf(rows)]);
    if (!parts.length) parts.push(nothing(this.search.value.trim() ? texts.found_none : texts.list_empty));
    this.box.replaceChildren(...parts);
  }

  listOf(rows) {
    const list = document.createElement("ul");
    for (const row of rows) {
      const item = document.createElement("li");
      const link = document.createElement("a");
      const title = document.createElement("span");
      const service = document.createElement("span");
      link.href = `${data.page_url}${row.id}/`;
      link.dataset.id = row.id;
      if (row.id === this.chosen) link.setAttribute("aria-current", "page");
      title.className = "chat-row-title";
      title.textContent = row.title || texts.untitled;
      service.className = "chat-row-service";
      service.textContent = row.is_answering ? `${row.service_name} · ${texts.answering}` : row.service_name;
      link.append(title, service);
      item.append(link);
      list.append(item);
    }
    return list;
  }
}

function heading(text) {
  const made = document.createElement("h3");
  made.textContent = text;
  return made;
}

function nothing(text) {
  const made = document.createElement("p");
  made.className = "subtle";
  made.textContent = text;
  return made;
}

function dayOf(moment) {
  const midnight = new Date();
  midnight.setHours(0, 0, 0, 0);
  if (moment >= midnight) return texts.today;
  return moment >= midnight - 86400000 ? texts.yesterday : texts.earlier;
}
