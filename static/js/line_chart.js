/* Lines over time as SVG: drawn to the width there is, coloured by the page's sheet, readable by pointer and by keys.
   Where a value is missing the line is broken. */

import { momentText } from "./clock.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 176;
const MARGIN = { top: 8, right: 10, bottom: 22, left: 62 };
const SIX = 6; // more lines than this cannot be told apart by colour: then their mean stands out

function element(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function html(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

const told = (values) => values.filter((value) => value !== null);

export function formatted(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "percent") return `${Math.round(value)} %`;
  if (unit === "celsius") return `${Math.round(value)} °C`;
  if (unit === "watts") return `${Math.round(value)} W`;
  if (unit === "per_minute") return shortened(value, ["", "k", "M", "G"], "");
  return shortened(value, ["B/s", "KB/s", "MB/s", "GB/s", "TB/s"], " ");
}

/* With a unit that keeps it short: 12.3k, 950 B/s. */
function shortened(value, steps, space) {
  let step = 0;
  while (value >= 1000 && step < steps.length - 1) {
    value /= 1000;
    step += 1;
  }
  const whole = value >= 100 || (step === 0 && steps[0] !== "");
  return `${whole ? Math.round(value) : Number(value.toFixed(1))}${space}${steps[step]}`;
}

/* The next of these times a power of ten, so that quarters of it are short numbers. */
function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 4, 6, 8, 10].find((factor) => value <= factor * power);
}

function meanOf(series) {
  return series[0].values.map((_, index) => {
    const values = told(series.map((one) => one.values[index]));
    return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
  });
}

/* Multiples of a step that looks natural on a clock, in the browser's own time zone. */
function ticks(begin, end, most) {
  const minute = 60e3;
  const steps = [5, 10, 15, 30, 60, 120, 180, 240, 360, 720, 1440, 2880].map((n) => n * minute);
  const step = steps.find((one) => (end - begin) / one <= most) ?? steps.at(-1);
  const shift = new Date(begin).getTimezoneOffset() * minute;
  const found = [];
  for (let at = Math.ceil((begin - shift) / step) * step + shift; at <= end; at += step) found.push(at);
  return found;
}

export class LineChart {
  /* `words`: what to call "mean of all" and "each of %s". */
  constructor(figure, { unit, words }) {
    Object.assign(this, { figure, unit, words });
    this.plot = html("div", "chart-plot");
    this.plot.tabIndex = 0;
    this.plot.setAttribute("role", "img");
    this.legend = html("ul", "chart-legend");
    figure.append(this.plot, this.legend);
    this.cursor = null;
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerdown", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.moveTo(null));
    this.plot.addEventListener("blur", () => this.moveTo(null));
    this.plot.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  /* `series`: [{label, values}]; value n is at `begin` + n times `step`, all in milliseconds. */
  show({ begin, end, step, series }) {
    Object.assign(this, { begin, end, step, cursor: null });
    this.every = series;
    const many = series.length > SIX;
    const each = { label: this.words.each.replace("%s", series.length), className: "line-each" };
    this.lines = many
      ? [...series.map((one) => ({ ...one, className: "line-each" })), { label: this.words.mean, values: meanOf(series), className: "line-mean" }]
      : series.map((one, place) => ({ ...one, className: `line-${place}` }));
    this.keys = many ? [this.lines.at(-1), each] : this.lines;
    const highest = Math.max(0, ...series.flatMap((one) => told(one.values)));
    this.top = this.unit === "percent" ? 100 : ceiling(highest);
    this.draw();
  }

  draw() {
    this.width = this.plot.clientWidth;
    if (!this.lines || this.width < 80) return;
    const svg = element("svg", { width: this.width, height: HEIGHT, "aria-hidden": "true", focusable: "false" });
    svg.append(...this.grid(), ...this.lines.map((line) => this.path(line)));
    this.mark = element("line", { class: "chart-cursor", y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom, visibility: "hidden" });
    svg.append(this.mark);
    this.plot.replaceChildren(svg);
    this.moveTo(this.cursor);
  }

  x(at) {
    return MARGIN.left + ((at - this.begin) / (this.end - this.begin)) * (this.width - MARGIN.left - MARGIN.right);
  }

  y(value) {
    return HEIGHT - MARGIN.bottom - (Math.min(value, this.top) / this.top) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  }

  at(index) {
    return this.begin + (index + 0.5) * this.step;
  }

  grid() {
    const made = [];
    for (let quarter = 0; quarter <= 4; quarter += 1) {
      const value = (this.top * quarter) / 4;
      const y = this.y(value);
      made.push(element("line", { class: "chart-grid", x1: MARGIN.left, x2: this.width - MARGIN.right, y1: y, y2: y }));
      made.push(element("text", { class: "chart-text", x: MARGIN.left - 6, y: y + 4, "text-anchor": "end" }, formatted(value, this.unit)));
    }
    for (const at of ticks(this.begin, this.end, Math.max(2, Math.floor(this.width / 75)))) {
      const x = this.x(at);
      if (x > this.width - 18 || x < MARGIN.left + 12) continue;
      made.push(element("text", { class: "chart-text", x, y: HEIGHT - 6, "text-anchor": "middle" }, this.tickText(at)));
    }
    return made;
  }

  tickText(at) {
    const day = this.end - this.begin > 36 * 3600e3;
    return momentText(at, day ? { month: "numeric", day: "numeric" } : { hour: "2-digit", minute: "2-digit" });
  }

  path({ values, className }) {
    let d = "";
    values.forEach((value, index) => {
      if (value === null) return;
      const begins = index === 0 || values[index - 1] === null;
      d += `${begins ? "M" : "L"}${this.x(this.at(index)).toFixed(1)} ${this.y(value).toFixed(1)}`;
      if (begins && (values[index + 1] ?? null) === null) d += "h0.01"; // a lonely value is a dot
    });
    return element("path", { class: `chart-line ${className}`, d });
  }

  point(event) {
    const share = (event.clientX - this.plot.getBoundingClientRect().left - MARGIN.left) / (this.width - MARGIN.left - MARGIN.right);
    this.moveTo(Math.floor((share * (this.end - this.begin)) / this.step));
  }

  key(event) {
    const last = this.every[0].values.length - 1;
    const now = this.cursor ?? last;
    const wanted = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last, Escape: null }[event.key];
    if (wanted === undefined) return;
    event.preventDefault();
    this.moveTo(wanted);
  }

  /* Show the values at this step; null shows the latest ones. */
  moveTo(index) {
    if (!this.mark) return;
    const last = this.every[0].values.length - 1;
    this.cursor = index === null ? null : Math.max(0, Math.min(last, index));
    this.mark.setAttribute("visibility", this.cursor === null ? "hidden" : "visible");
    if (this.cursor !== null) {
      const x = this.x(this.at(this.cursor));
      this.mark.setAttribute("x1", x);
      this.mark.setAttribute("x2", x);
    }
    const shown = this.cursor ?? this.latest();
    this.legend.replaceChildren(...this.keys.map((line) => this.entry(line, shown)));
    const time = html("li", "chart-when", this.momentText(shown));
    this.legend.append(time);
    const spoken = this.keys.filter((line) => line.values).map((line) => `${line.label} ${formatted(line.values[shown], this.unit)}`);
    this.plot.setAttribute("aria-label", `${this.figure.dataset.title}, ${this.momentText(shown)}: ${spoken.join(", ")}`);
  }

  entry(line, shown) {
    const key = element("svg", { class: "chart-key", width: 18, height: 8, "aria-hidden": "true" });
    key.append(element("path", { class: `chart-line ${line.className}`, d: "M1 4H17" }));
    const value = line.values ? html("strong", "", formatted(line.values[shown], this.unit)) : "";
    return html("li", "", key, `${line.label} `, value);
  }

  latest() {
    const values = this.every[0].values;
    for (let index = values.length - 1; index > 0; index -= 1) {
      if (this.every.some((one) => one.values[index] !== null)) return index;
    }
    return 0;
  }

  momentText(index) {
    const form = { month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit" };
    return momentText(this.begin + index * this.step, form);
  }
}
