// What the chat pages were given by the server, and how they ask it for more.

const read = (id) => JSON.parse(document.getElementById(id).textContent);

export const data = read("chat-data");
export const texts = read("chat-texts");

/** Why something did not work, as a sentence a person can read. */
export class ApiError extends Error {
  constructor(message, fields = {}) {
    super(message);
    this.fields = fields;
  }
}

function token() {
  const start = `${data.csrf_cookie}=`;
  return document.cookie.split("; ").find((pair) => pair.startsWith(start))?.slice(start.length) || "";
}

/** The JSON answer, null when there is none; rejects with ApiError. */
export async function api(method, path, body) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: { "Content-Type": "application/json", "X-CSRFToken": token() },
      body: body === undefined ? undefined : JSON.stringify(body),
      keepalive: method !== "GET" && JSON.stringify(body ?? "").length < 60000, // sent also when the page is left now
      signal: AbortSignal.timeout(15000),
    });
  } catch {
    throw new ApiError(texts.unreachable);
  }
  const told = response.status === 204 ? null : await response.json().catch(() => ({}));
  if (!response.ok) throw new ApiError(told.error?.message || `HTTP ${response.status}`, told.error?.fields);
  return told;
}

/** "%s of %s" with its parts. */
export function fill(text, ...parts) {
  return parts.reduce((made, part) => made.replace("%s", () => part), text);
}
