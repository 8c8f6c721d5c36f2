// What can be talked to, services and endpoints alike, each known by its `target`: fills pickers, and looks every few
// seconds whether it still can.

import { api, data, fill, texts } from "./chat_api.js";

const LOOK_EVERY_MS = 5000;

let known = data.services;

export function serviceOf(target) {
  return known.find((service) => service.target === target) || null;
}

export function firstService() {
  return known[0] || null;
}

/** Offers the services in `select`, those that cannot answer named as such; keeps what is chosen. */
export function fillPicker(select, chosen) {
  const options = known.map((service) => {
    const option = new Option(service.name, service.target, false, service.target === chosen);
    if (service.model && service.model !== service.name) option.text += ` · ${service.model}`;
    if (service.external) option.text += ` · ${texts.external}`;
    if (service.why) option.text += ` (${service.chip.word})`;
    return option;
  });
  if (!serviceOf(chosen)) options.unshift(new Option(known.length ? texts.choose : texts.no_service, "", true, true));
  const same = options.length === select.options.length
    && options.every((option, at) => option.text === select.options[at].text && option.value === select.options[at].value);
  if (!same) select.replaceChildren(...options);
  select.value = serviceOf(chosen) ? chosen : "";
}

export function drawChip(box, service) {
  box.replaceChildren();
  if (!service) return;
  const chip = document.createElement("span");
  chip.className = `chip chip-${service.chip.role}`;
  chip.title = service.chip.title;
  const icon = document.createElement("span");
  icon.className = "material-symbols-outlined";
  icon.setAttribute("aria-hidden", "true");
  icon.textContent = service.chip.icon;
  const word = document.createElement("span");
  word.className = "chip-word";
  word.textContent = service.chip.word;
  chip.append(icon, word, ` ${service.ready}`);
  box.append(chip);
}

/** Why it cannot be asked, with the way to help; empty when it can. */
export function whyNot(service) {
  if (!service) return known.length ? [texts.choose] : [texts.no_service, " ", texts.no_service_more];
  if (!service.why) return [];
  const strong = document.createElement("strong");
  strong.textContent = fill(texts.why, service.name);
  if (!service.url) return [strong, ` ${service.why}`];
  const link = document.createElement("a");
  link.className = "link";
  link.href = service.url;
  link.textContent = service.external ? texts.deploy_endpoint : texts.deploy;
  return [strong, ` ${service.why} `, link];
}

/** A target as the socket and the API take it: a service or an endpoint, by its number. */
export function asFrame(target) {
  const [kind, id] = target.split("-");
  return { [kind]: Number(id) };
}

/** Calls `changed()` after each look, while the page is seen. */
export function keepLooking(changed) {
  setInterval(async () => {
    if (document.hidden) return;
    try {
      known = await api("GET", data.services_url);
      changed();
    } catch (problem) {
      console.warn("services not read:", problem.message);
    }
  }, LOOK_EVERY_MS);
}
