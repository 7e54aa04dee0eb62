// The page: starts, stops and forks texts, and keeps their colours up to date.

import * as api from "./api.js";
import { drawLegend } from "./colours.js";
import { make } from "./dom.js";
import { Panel } from "./panel.js";
import * as form from "./settings.js";
import { Tracer } from "./tracer.js";

const MOST_SEED = 2 ** 32;
const KEY = "charrnn-key";

const $ = (id) => document.getElementById(id);
const panels = new Set();
let lastSeed = 0; // the highest seed used so far; forks use the next ones
let known = null; // the model whose units are listed
let models = [];

// --- starting and stopping -------------------------------------------------------------------------------

/** A request; its i-th choice is the text of the i-th panel. */
async function run(request, shown) {
  const abort = new AbortController();
  for (const panel of shown) panel.abort = abort;
  update();
  try {
    await api.complete({ ...request, n: shown.length }, abort.signal, (choice) => {
      const panel = shown[choice.index];
      if (!panel.running) return;
      panel.add(choice.text);
      if (choice.finish_reason) panel.end(choice.finish_reason);
    });
    for (const panel of shown) if (panel.running) panel.end("length");
  } catch (error) {
    const stopped = error.name === "AbortError";
    for (const panel of shown.filter((each) => each.running)) {
      if (stopped) panel.end("stopped");
      else panel.fail(error.message);
    }
    if (!stopped) complain(error);
  }
  for (const panel of shown) tracer.want(panel);
  update();
  const running = [...panels].some((panel) => panel.running);
  if (!running) $("news").textContent = `${panels.size === 1 ? "The text has" : "All texts have"} ended.`;
}

function requestOf(values, prompt, seed) {
  return { model: values.model, prompt, max_tokens: Number(values.length), seed, ...form.sampling(values) };
}

async function generate() {
  const values = form.settings();
  const seed = values.seed === "" ? Math.floor(Math.random() * MOST_SEED) : Number(values.seed);
  lastSeed = seed;
  $("message").textContent = "";
  $("news").textContent = "";
  for (const panel of [...panels]) close(panel);
  const shown = Array.from({ length: Number(values.streams) }, (_, stream) =>
    new Panel({ prompt: values.prompt, seed, stream, values }, actions));
  for (const panel of shown) {
    panels.add(panel);
    $("texts").append(panel.element);
  }
  $("hint").hidden = true;
  await run(requestOf(values, values.prompt, seed), shown);
}

/** Continue a text from one of its characters, or from another one in its place, with a new seed. */
function fork(parent, index, instead = null) {
  const values = { ...form.settings(), model: parent.origin.values.model };
  const prompt = instead === null ? parent.upTo(index) : parent.upTo(index - 1) + instead;
  lastSeed += 1;
  const { seed, stream } = parent.origin;
  const from = `Forked from seed ${seed}, stream ${stream}, after ${[...prompt].length.toLocaleString("en")} characters`;
  const panel = new Panel({ prompt, seed: lastSeed, stream: 0, from, values }, actions);
  panels.add(panel);
  parent.element.after(panel.element);
  panel.view.focus({ preventScroll: true });
  panel.element.scrollIntoView({ block: "nearest" });
  run(requestOf(values, prompt, lastSeed), [panel]);
}

/** Stop a text. Its request ends with the last of its texts. */
function stop(panel) {
  if (!panel.running) return;
  panel.end("stopped");
  if (![...panels].some((other) => other.running && other.abort === panel.abort)) panel.abort.abort();
  tracer.want(panel);
  update();
}

function close(panel) {
  stop(panel);
  tracer.forget(panel);
  panels.delete(panel);
  panel.element.remove();
  $("hint").hidden = panels.size > 0;
}

function stopAll() {
  for (const panel of panels) stop(panel);
}

function update() {
  const running = [...panels].some((panel) => panel.running);
  $("stop").disabled = !running;
}

const actions = {
  fork,
  stop,
  close(panel) {
    close(panel);
    $("texts").focus({ preventScroll: true });
  },
  copy: (panel) => copy(panel.text, "Text copied."),
  link(panel) {
    const { prompt, seed, stream, values } = panel.origin;
    copy(form.linkTo({ ...values, ...looks(), prompt, seed, streams: stream + 1 }), "Link copied.");
  },
  look: (panel) => tracer.want(panel),
  grown: (panel) => tracer.want(panel),
};

// --- colours ---------------------------------------------------------------------------------------------

function looks() {
  return { colour: $("colour").value, unit: $("unit").value };
}

/** The trace that a panel needs now, or null. */
function wanted(panel) {
  const { colour, unit } = looks();
  if (colour === "none" && panel.cursor < 0) return null;
  const units = colour === "unit" && unit.trim() ? [unit.trim()] : [];
  return { model: panel.origin.values.model, text: panel.text, top: 5, units };
}

const tracer = new Tracer({
  wanted,
  arrived(panel, request, trace) {
    const unit = request.units[0];
    panel.colour(trace, looks().colour, unit);
    complain(null, "trouble");
  },
  failed: (panel, error) => complain(error, "trouble"),
});

function recolour() {
  const { colour } = looks();
  $("unit-field").hidden = colour !== "unit";
  drawLegend($("legend"), colour);
  for (const panel of panels) {
    if (colour === "none" && panel.trace) panel.colour(EMPTY_TRACE, "none");
    tracer.want(panel);
  }
}

const EMPTY_TRACE = { text_offset: [], token_logprobs: [], top_logprobs: [], units: {} };

/** List the names of the model's units. */
async function listUnits() {
  const model = $("model").value;
  if (!model || known === model || looks().colour !== "unit") return;
  known = model;
  try {
    const { unit_names: names } = await api.trace({ model, text: "", top: 0, units: [] });
    $("units").replaceChildren(...names.map((name) => make("option", { value: name })));
    if (!names.includes($("unit").value)) {
      $("unit").value = names[0];
      form.remember();
      recolour();
    }
  } catch (error) {
    known = null;
    complain(error, "trouble");
  }
}

// --- the rest --------------------------------------------------------------------------------------------

/** Show an error, or with null clear it: of the texts, or of their colours ("trouble"). */
function complain(error, where = "message") {
  $(where).textContent = error === null ? "" : error.message;
  if (error?.status === 401) $("key-field").hidden = false;
}

async function copy(text, said) {
  try {
    await navigator.clipboard.writeText(text);
    $("news").textContent = said;
  } catch {
    $("news").textContent = "The browser does not allow copying. Select the text and copy it yourself.";
  }
}

async function listModels() {
  try {
    models = await api.listModels();
    const chosen = $("model").value || form.wantedModel();
    $("model").replaceChildren(...models.map(({ id }) =>
      make("option", { value: id, textContent: id, selected: id === chosen })));
    $("key-field").hidden = $("key").value === "";
    complain(null);
    describeModel();
    await listUnits();
  } catch (error) {
    complain(error);
  }
}

function describeModel() {
  const model = models.find(({ id }) => id === $("model").value);
  if (!model) return;
  const { cell, layers, hidden_size: size, vocabulary_size: symbols, level, parameters, precision } = model;
  const kinds = level === "byte" ? "bytes" : `${symbols} characters`;
  const facts = [`${cell.toUpperCase()} ${layers}x${size}`, `${parameters.toLocaleString("en")} parameters`, precision, kinds];
  $("about").textContent = facts.join(", ");
}

function useKey() {
  const key = $("key").value.trim();
  api.useKey(key);
  sessionStorage.setItem(KEY, key);
}

function start() {
  $("key").value = sessionStorage.getItem(KEY) ?? "";
  useKey();
  form.restore();
  recolour();
  listModels();
  $("settings").addEventListener("submit", (event) => {
    event.preventDefault();
    generate();
  });
  $("settings").addEventListener("input", (event) => {
    if (event.target !== $("key")) form.remember();
  });
  for (const id of ["colour", "unit"]) {
    $(id).addEventListener("change", () => {
      recolour();
      listUnits();
    });
  }
  $("model").addEventListener("change", () => {
    describeModel();
    listUnits();
  });
  $("key").addEventListener("change", () => {
    useKey();
    listModels();
  });
  $("stop").addEventListener("click", stopAll);
  $("link").addEventListener("click", () => copy(form.linkTo(form.settings()), "Link copied."));
  addEventListener("hashchange", () => {
    form.restore();
    recolour();
    listUnits();
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") stopAll();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && $("settings").contains(event.target)) {
      $("settings").requestSubmit();
    }
  });
}

start();
