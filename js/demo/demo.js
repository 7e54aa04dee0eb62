/** The demo page: load a model, generate text, and show how surprising each character was. */

import { UnknownCharacterError, load } from "../src/index.js";

/** Characters with at least this many bits have the strongest colour. */
const MOST_BITS = 8;

const ORT = new URL("../ort/ort.wasm.bundle.min.mjs", import.meta.url);

/**
 * The files that the build copied next to this page.
 *
 * @typedef {{ file: string, name: string, bytes: number }} Listed
 * @typedef {{ runtimeBytes: number, models: Listed[] }} Contents
 */

/** @template {HTMLElement} Kind @param {string} id @param {new () => Kind} kind */
function element(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page has no ${id}`);
  return found;
}

const form = element("settings", HTMLFormElement);
const choice = element("model", HTMLSelectElement);
const prompt = element("prompt", HTMLTextAreaElement);
const temperature = element("temperature", HTMLInputElement);
const topP = element("top-p", HTMLInputElement);
const length = element("length", HTMLInputElement);
const seed = element("seed", HTMLInputElement);
const start = element("start", HTMLButtonElement);
const stop = element("stop", HTMLButtonElement);
const heat = element("heat", HTMLInputElement);
const loaded = element("loaded", HTMLParagraphElement);
const status = element("status", HTMLParagraphElement);
const progress = element("progress", HTMLProgressElement);
const text = element("text", HTMLPreElement);
const mean = element("mean", HTMLSpanElement);

/** @type {import("../src/index.js").CharRNN | undefined} */
let model;
/** @type {import("../src/index.js").LiveText | undefined} */
let live;

/** @param {number} bytes */
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
/** @param {number} since */
const seconds = (since) => `${((performance.now() - since) / 1000).toFixed(2)} s`;

/** @param {string} words @param {boolean} [failed] */
function say(words, failed = false) {
  status.textContent = words;
  status.classList.toggle("failed", failed);
}

/** @param {Contents} contents */
async function loadChosen({ models, runtimeBytes }) {
  const chosen = models[choice.selectedIndex];
  await live?.close();
  await model?.close();
  model = undefined;
  start.disabled = true;
  choice.disabled = true;
  progress.hidden = false;
  const sizes = `model ${megabytes(chosen.bytes)}, onnxruntime ${megabytes(runtimeBytes)}`;
  loaded.textContent = `${chosen.file}: ${sizes}.`;
  say("Loading ...");
  const before = performance.now();
  try {
    model = await load(new URL(`../models/${chosen.file}`, import.meta.url), {
      ort: ORT,
      onProgress: (bytes) => (progress.value = bytes / chosen.bytes),
    });
    const { cell, layers, hiddenSize, precision, training } = model.info;
    const loss = training.validation_loss;
    const quality = typeof loss === "number" ? `, ${(loss / Math.LN2).toFixed(2)} bits per character` : "";
    const network = `${cell.toUpperCase()} ${layers}x${hiddenSize}, ${precision}${quality}`;
    loaded.textContent = `${network}. Loaded in ${seconds(before)}: ${sizes}.`;
    say("Ready.");
    start.disabled = false;
  } catch (error) {
    say(String(error), true);
  }
  choice.disabled = false;
  progress.hidden = true;
}

async function generate() {
  if (!model) return;
  start.disabled = true;
  stop.disabled = false;
  text.replaceChildren();
  mean.textContent = "";
  const map = new HeatMap(model);
  try {
    live = model.stream(prompt.value, {
      length: Number(length.value),
      temperature: Number(temperature.value),
      topP: Number(topP.value),
      seed: seed.value.trim() ? BigInt(seed.value.trim()) : undefined,
    });
    map.add(prompt.value, "prompt");
    const before = performance.now();
    for await (const piece of live) {
      map.add(piece);
      const rate = Math.round((1000 * live.generated) / (performance.now() - before));
      const written = live.generated.toLocaleString();
      say(`${written} characters in ${seconds(before)} (${rate.toLocaleString()} per second), seed ${live.seed}.`);
    }
    await map.finish();
  } catch (error) {
    const unknown = error instanceof UnknownCharacterError ? error.characters.join(" ") : "";
    say(unknown ? `This model does not know these characters: ${unknown}` : String(error), true);
  }
  start.disabled = false;
  stop.disabled = true;
}

/** Shows text, and colours it as soon as the model has scored it. */
class HeatMap {
  /** @param {import("../src/index.js").CharRNN} scorer */
  constructor(scorer) {
    this._model = scorer;
    this._bits = 0;
    this._characters = 0;
    /** @type {import("../src/index.js").State | undefined} */
    this._state = undefined;
    this._last = Promise.resolve();
  }

  /** @param {string} piece @param {string} [kind] */
  add(piece, kind = "") {
    if (!piece) return;
    const atEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 40;
    const spans = [...piece].map((character) => {
      const span = document.createElement("span");
      span.textContent = character;
      if (kind) span.className = kind;
      return span;
    });
    text.append(...spans);
    if (atEnd) text.scrollTop = text.scrollHeight;
    this._last = this._last.then(() => this._colour(piece, spans, kind));
    this._last.catch(() => {}); // `finish` reports errors
  }

  /** Wait until all text is coloured. */
  finish() {
    return this._last;
  }

  /** @param {string} piece @param {HTMLSpanElement[]} spans @param {string} kind */
  async _colour(piece, spans, kind) {
    const { perCharacter, state } = await this._model.score(piece, { state: this._state });
    this._state = state;
    let at = 0;
    for (const span of spans) {
      const bytes = new TextEncoder().encode(String(span.textContent)).length;
      const ids = this._model.info.level === "byte" ? bytes : 1;
      const nats = perCharacter.subarray(at, at + ids).reduce((sum, loss) => sum + loss, 0);
      const bits = nats / Math.LN2;
      at += ids;
      span.style.setProperty("--surprise", String(Math.min(bits / MOST_BITS, 1).toFixed(3)));
      span.title = `${bits.toFixed(1)} bits`;
      if (kind) continue;
      this._bits += bits;
      this._characters += 1;
    }
    if (this._characters) {
      mean.textContent = `${(this._bits / this._characters).toFixed(2)} bits per character on average`;
    }
  }
}

function showSettings() {
  element("temperature-shown", HTMLOutputElement).value = Number(temperature.value).toFixed(2);
  element("top-p-shown", HTMLOutputElement).value = Number(topP.value).toFixed(2);
  text.classList.toggle("heat", heat.checked);
}

async function main() {
  showSettings();
  form.addEventListener("input", showSettings);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void generate();
  });
  stop.addEventListener("click", () => void live?.close());
  const contents = /** @type {Contents} */ (await (await fetch(new URL("../contents.json", import.meta.url))).json());
  choice.append(...contents.models.map(({ name, bytes }) => new Option(`${name} (${megabytes(bytes)})`)));
  choice.addEventListener("change", () => void loadChosen(contents));
  await loadChosen(contents);
}

main().catch((error) => say(String(error), true));
