"use strict";
/* "Start from" fills the form of a service at once. What a person has typed stays: a field is filled only while it is
   empty or still as the last choice left it. Without this script the server fills what is empty when the form is saved. */
(() => {
  const NAMES = [
    ...["deploy_command", "stop_command", "port", "path_prefix"],
    ...["probe_type", "probe_path", "probe_expected_status", "probe_startup_seconds"],
  ];
  const put = new Map(); // field name: what the last choice put there

  const field = (name) => document.getElementById(`id_${name}`);
  const label = (name) => document.querySelector(`label[for="id_${name}"]`)?.textContent.trim() || name;

  function fill(name, value) {
    const element = field(name);
    const text = String(value ?? "");
    if (!element) return "";
    const ours = element.value === "" || element.value === put.get(name);
    if (!ours) return text === "" || element.value === text ? "" : "kept";
    element.value = text;
    put.set(name, element.value);
    element.dispatchEvent(new Event("input", { bubbles: true }));
    return text === "" ? "" : "filled";
  }

  function line(text) {
    const paragraph = document.createElement("p");
    paragraph.textContent = text;
    return paragraph;
  }

  function tell(box, preset, done, words) {
    box.replaceChildren();
    if (!preset) return;
    box.append(line(preset.note));
    const origin = line(`${preset.evidence[0].toUpperCase()}${preset.evidence.slice(1)}. `);
    if (!preset.sure) origin.append(`${words.unsure} `);
    if (preset.source.startsWith("https://")) {
      const link = document.createElement("a");
      Object.assign(link, { href: preset.source, textContent: words.source, className: "link", rel: "noopener", target: "_blank" });
      origin.append(link);
    }
    box.append(origin);
    for (const kind of ["filled", "kept"]) {
      const names = NAMES.filter((name) => done.get(name) === kind).map(label);
      if (names.length) box.append(line(`${words[kind]} ${names.join(", ")}.`));
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    const select = field("preset");
    const data = document.getElementById("presets");
    if (!select || !data) return;
    const presets = JSON.parse(data.textContent);
    const words = document.getElementById("preset-words").dataset;
    const box = document.createElement("div");
    box.className = "preset-note";
    box.setAttribute("role", "status");
    select.parentElement.insertAdjacentElement("afterend", box);
    select.removeAttribute("name"); // the server fills nothing again that a person has emptied here

    select.addEventListener("change", () => {
      const preset = presets[select.value];
      const done = new Map(NAMES.map((name) => [name, fill(name, preset?.fields[name])]));
      tell(box, preset, done, words);
    });
  });
})();
