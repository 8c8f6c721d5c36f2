"use strict";
/* Below the form of a service: what will happen on each server. The site reckons it anew, a moment after the last change. */
(() => {
  const NAMES = ["placed_on", "devices", "port", "max_unavailable", "surge"];
  const WAIT_MS = 300;
  let timer = 0;
  let asked = 0;

  function query(form, service) {
    const given = new FormData(form);
    const wanted = new URLSearchParams();
    for (const name of NAMES) for (const value of given.getAll(name)) wanted.append(name, value);
    if (service) wanted.set("service", service);
    return wanted;
  }

  async function show(box, form) {
    const mine = ++asked;
    try {
      const answer = await fetch(`${box.dataset.url}?${query(form, box.dataset.service)}`, { cache: "no-store" });
      if (!answer.ok || mine !== asked) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      box.replaceChildren(...[...page.body.childNodes].map((node) => document.importNode(node, true)));
    } catch (problem) {
      console.warn("no plan:", problem.message);
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    const box = document.getElementById("plan");
    const form = document.getElementById("service_form");
    if (!box || !form) return;
    const soon = () => {
      clearTimeout(timer);
      timer = setTimeout(() => show(box, form), WAIT_MS);
    };
    form.addEventListener("input", soon);
    form.addEventListener("change", soon);
    window.django?.jQuery?.(form).on("change", "select", soon); // select2 tells jQuery alone
    soon();
  });
})();
