/* Cards with charts over time: which span, one chart for each kind of figure, and all of it as a table. */

import { dayText } from "./clock.js";
import { LineChart, formatted } from "./line_chart.js";

const HOURS = { "1h": 1, "6h": 6, "24h": 24, "7d": 168 };
const AGAIN_MS = 60000;
const KEPT = "infini.history.span"; // of a server; other cards keep their own

class HistoryCard {
  constructor(card) {
    this.card = card;
    this.words = card.dataset;
    this.names = JSON.parse(this.words.names);
    this.status = card.querySelector("[role=status]");
    this.kept = card.id === "history" ? KEPT : `${KEPT}.${card.id}`;
    this.charts = [...card.querySelectorAll(".line-chart")].map((figure) => ({
      figure,
      names: figure.dataset.series.split(" "),
      chart: new LineChart(figure, { unit: figure.dataset.unit, words: this.words }),
    }));
    this.buttons = [...card.querySelectorAll("[data-span]")];
    for (const button of this.buttons) button.addEventListener("click", () => this.choose(button.dataset.span));
    this.table = card.querySelector(".chart-table");
    this.table.addEventListener("toggle", () => this.fillTable());
    const kept = localStorage.getItem(this.kept);
    card.hidden = false;
    new IntersectionObserver((seen) => {
      this.inSight = seen.at(-1).isIntersecting;
      if (this.inSight && !this.loadedAt) this.choose(kept in HOURS ? kept : this.words.default);
    }).observe(card);
    setInterval(() => this.inSight && !document.hidden && Date.now() - this.loadedAt > AGAIN_MS && this.load(), 5000);
  }

  choose(span) {
    this.span = span;
    localStorage.setItem(this.kept, span);
    for (const button of this.buttons) button.setAttribute("aria-pressed", String(button.dataset.span === span));
    this.load();
  }

  async load() {
    const span = this.span;
    this.loadedAt = Date.now();
    const end = new Date();
    const begin = new Date(end - HOURS[span] * 3600e3);
    const query = new URLSearchParams({ from: begin.toISOString(), to: end.toISOString() });
    try {
      const answer = await fetch(`${this.words.url}${this.words.url.includes("?") ? "&" : "?"}${query}`, { signal: AbortSignal.timeout(20000) });
      if (!answer.ok) throw new Error(String(answer.status));
      const history = await answer.json();
      if (span === this.span) this.show(history);
    } catch (problem) {
      console.warn("history:", problem.message);
      this.status.textContent = this.words.failed;
    }
  }

  show(history) {
    const step = history.step_seconds * 1000;
    const begin = Date.parse(history.from);
    const count = history.series[0].values.length;
    const frame = { begin, end: begin + count * step, step };
    this.frame = frame;
    this.all = [];
    for (const { figure, names, chart } of this.charts) {
      const series = history.series
        .filter((one) => names.includes(one.name) && one.values.some((value) => value !== null))
        .map((one) => ({ ...one, label: this.label(one), title: figure.dataset.title }));
      figure.hidden = series.length === 0;
      if (series.length) chart.show({ ...frame, series });
      this.all.push(...series);
    }
    this.card.classList.toggle("is-empty", this.all.length === 0);
    this.table.hidden = this.all.length === 0;
    this.status.textContent = this.all.length ? "" : this.words.empty;
    this.fillTable();
  }

  label(one) {
    return one.device ? `${one.device.vendor} ${one.device.index}` : this.names[one.name];
  }

  /* Built only while it is open: newest first. */
  fillTable() {
    const table = this.table.querySelector("table");
    if (!this.table.open || !this.frame) return;
    const head = table.createTHead();
    head.replaceChildren();
    const titles = head.insertRow();
    titles.append(this.heading(this.words.time));
    for (const one of this.all) titles.append(this.heading(one.device ? `${one.title}: ${one.label}` : one.label));
    const body = document.createElement("tbody");
    for (let index = this.all[0].values.length - 1; index >= 0; index -= 1) {
      const row = body.insertRow();
      row.append(this.heading(dayText(this.frame.begin + index * this.frame.step), "row"));
      for (const one of this.all) row.insertCell().textContent = formatted(one.values[index], one.unit);
    }
    table.tBodies[0]?.remove();
    table.append(body);
  }

  heading(text, scope = "col") {
    const made = document.createElement("th");
    made.scope = scope;
    made.textContent = text;
    return made;
  }
}

for (const card of document.querySelectorAll(".history-card")) new HistoryCard(card);
