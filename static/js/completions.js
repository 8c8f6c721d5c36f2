// One streamed answer of the completions path, as its pieces of text.

/** Why there is no answer, as a sentence a person can read. */
export class AnswerError extends Error {}

/** Asks, and calls `onText(piece)` as words arrive; gives the answering server's name. Rejects with AnswerError. */
export async function streamAnswer({ url, token, messages, signal, onText, texts }) {
  const response = await ask(url, token, messages, signal, texts);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw signal.aborted ? error : new AnswerError(texts.broken);
    });
    if (done) throw new AnswerError(texts.broken);
    const events = (rest + value).split(/\r?\n\r?\n/);
    rest = events.pop();
    for (const event of events) {
      if (takeEvent(event, onText)) return decodeURIComponent(response.headers.get("X-Infini-Server") || "");
    }
  }
}

async function ask(url, token, messages, signal, texts) {
  let response;
  try {
    response = await fetch(url, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRFToken": token },
      body: JSON.stringify({ messages, stream: true }),
      signal,
    });
  } catch (error) {
    throw signal.aborted ? error : new AnswerError(texts.unreachable);
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new AnswerError(told.error?.message || `HTTP ${response.status}`);
}

// True when the answer is over.
function takeEvent(event, onText) {
  const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
  if (!data) return false;
  if (data === "[DONE]") return true;
  const parsed = JSON.parse(data);
  if (parsed.error) throw new AnswerError(parsed.error.message || String(parsed.error));
  const text = parsed.choices?.[0]?.delta?.content;
  if (text) onText(text);
  return false;
}
