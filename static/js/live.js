/* Keeps a page true while it stands open: fetches it anew every few seconds, and at once when something has happened,
   and patches what differs inside #live, or the rows of a list. */

import { clockText } from "./clock.js";
import { followEvents } from "./events.js";
import { patchList } from "./live_list.js";
import { patch, selecting } from "./patch.js";

const LATE_MS = 5000;
const LIST_SECONDS = 10;
const NEWS_MS = 200; // several events come together
const LEAST_MS = 1500; // between two fetches, however much happens
const region = () => document.getElementById("live") || document.getElementById("result_list");

let timer = 0;
let lastGood = Date.now();
let lastAsked = 0;
let stopped = false;

const seconds = () => Number(region().dataset.liveSeconds || LIST_SECONDS);

function tellLate() {
  const bar = document.getElementById("not-live");
  const late = Date.now() - lastGood > LATE_MS + 1000 * seconds();
  bar.hidden = !late;
  if (late) bar.textContent = bar.dataset.text.replace("%s", clockText(lastGood));
}

function tellMoved(count) {
  const pill = document.getElementById("list-moved");
  pill.hidden = !count;
  if (count) pill.textContent = count === 1 ? pill.dataset.one : pill.dataset.text.replace("%s", count);
}

function show(page) {
  const here = region();
  const there = page.getElementById(here.id);
  if (here.id === "result_list") tellMoved(patchList(here, there));
  else if (there) patch(here, there);
}

async function refresh() {
  if (document.hidden || document.querySelector("dialog[open]") || selecting(region())) return;
  lastAsked = Date.now();
  try {
    const answer = await fetch(location.href, { cache: "no-store", headers: { "X-Live": "1" }, signal: AbortSignal.timeout(10000) });
    if (stopped) return;
    if (answer.status === 404) return location.assign(new URL("../", location.href));
    if (answer.redirected) return location.reload();
    if (!answer.ok) throw new Error(String(answer.status));
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (stopped || selecting(region())) return;
    show(page);
    lastGood = Date.now();
  } catch (problem) {
    console.warn("not live:", problem.message);
  }
  tellLate();
}

function plan(ms = 1000 * seconds()) {
  clearTimeout(timer);
  if (stopped || !ms) return; // what is over changes no more
  timer = setTimeout(async () => {
    await refresh();
    plan();
  }, ms);
}

function onNews() {
  plan(Math.max(NEWS_MS, lastAsked + LEAST_MS - Date.now()));
}

function stop() {
  stopped = true; // a page on its way out must not eat the message meant for the next one
  clearTimeout(timer);
}

function begin() {
  document.addEventListener("submit", (event) => {
    if (!event.defaultPrevented) stop();
  });
  addEventListener("pagehide", stop);
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    stopped = false;
    plan();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    lastGood = Math.max(lastGood, Date.now() - LATE_MS);
    plan(NEWS_MS);
  });
  document.getElementById("list-moved")?.addEventListener("click", () => location.reload());
  plan();
  if (document.querySelector("[data-events]")) followEvents(onNews);
}

if (region() && (region().id === "result_list" || region().dataset.liveSeconds !== "0")) begin();
