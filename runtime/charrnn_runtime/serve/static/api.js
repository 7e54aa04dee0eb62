// The server's endpoints: models, streamed completions, and traces.

/** An error response of the server, or a failure to reach it, as text for the user. */
export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

let apiKey = "";

/** Send this key with every request from now on; "" for none. */
export function useKey(key) {
  apiKey = key;
}

async function ask(path, body, signal) {
  const headers = apiKey ? { Authorization: `Bearer ${apiKey}` } : {};
  const options = { headers, signal, cache: "no-store" };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached. Is charrnn-serve still running?");
  }
  if (!response.ok) throw new ServerError(await errorMessage(response), response.status);
  return response;
}

async function errorMessage(response) {
  let said = "";
  try {
    said = messageOf(await response.json());
  } catch {
    // Not JSON; perhaps the page of a proxy.
  }
  const wait = response.headers.get("Retry-After");
  if (response.status === 401) return said || "The server requires an API key.";
  if (response.status === 429 || response.status === 503) {
    const until = wait ? ` Try again in ${wait} s.` : " Try again soon.";
    return (said || "The server is busy.") + until;
  }
  return said || `The server answered with ${response.status} ${response.statusText}.`;
}

function messageOf(answer) {
  return answer?.error?.message ?? "";
}

/** The server's models: objects with an `id`. */
export async function listModels() {
  return (await (await ask("v1/models")).json()).data;
}

/** The model's predictions at each character of a text, and the values of some units: see `POST /trace`. */
export async function trace(request, signal) {
  return (await ask("trace", request, signal)).json();
}

/**
 * Run a completion, and call `onChoice` with each choice of each event as it arrives.
 *
 * Resolves at the end of the stream; a connection that breaks earlier is a ServerError.
 */
export async function complete(request, signal, onChoice) {
  const response = await ask("v1/completions", { ...request, stream: true }, signal);
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ServerError(messageOf(event) || "The server stopped with an error.");
      for (const choice of event.choices) onChoice(choice);
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ServerError) throw error;
  }
  throw new ServerError("The connection broke before the text was complete.");
}

/** The data of server-sent events, one string per event. */
export async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      const blocks = rest.split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
