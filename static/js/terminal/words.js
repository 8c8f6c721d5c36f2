/* What the page says, in the reader's language: data-text-* of the element that has the cookie's name. */

const texts = document.querySelector("[data-csrf-cookie]").dataset;

export function say(name, value) {
  const key = `text${name.replace(/(^|-)(\w)/g, (_all, _dash, letter) => letter.toUpperCase())}`;
  return (texts[key] || name).replace("%s", value ?? "");
}

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const icon = (name) => element("span", { class: "material-symbols-outlined", "aria-hidden": "true" }, name);

export function middleCut(name, most = 18) {
  if (name.length <= most) return name;
  const half = Math.floor((most - 1) / 2);
  return `${name.slice(0, most - 1 - half)}…${name.slice(-half)}`;
}

function cookie(name) {
  const found = document.cookie.split("; ").find((part) => part.startsWith(`${name}=`));
  return found ? decodeURIComponent(found.slice(name.length + 1)) : "";
}

/* Ask the API; an error is thrown with its sentence. */
export async function ask(method, path, options = {}) {
  const headers = { Accept: "application/json", ...(options.headers || {}) };
  if (method !== "GET") headers["X-CSRFToken"] = cookie(texts.csrfCookie);
  let answer;
  try {
    answer = await fetch(path, { method, ...options, headers });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Error(say("unreachable"));
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  const failed = new Error(said?.error?.message || `${answer.status}`);
  failed.status = answer.status;
  failed.code = said?.error?.code;
  throw failed;
}
