/** Compares a model with what the Python runtime made of it, in Node and in browsers alike. */

/** @import { CharRNN } from "../src/index.js" */

/**
 * What differs, in words.
 *
 * @param {CharRNN} model
 * @param {any} expected of this model, from expected.py.
 * @param {string} text the text that was scored.
 * @returns {Promise<string[]>}
 */
export async function differences(model, expected, text) {
  /** @type {string[]} */
  const found = [];
  const same = (/** @type {string} */ what, /** @type {unknown} */ one, /** @type {unknown} */ other) => {
    const [here, there] = [one, other].map((each) => JSON.stringify(each));
    if (here !== there) found.push(`${what}: ${here.slice(0, 300)} is not ${there.slice(0, 300)}`);
  };
  for (const { prompt, options, texts, data, positions, reasons } of expected.cases) {
    const label = `${JSON.stringify(prompt).slice(0, 30)} ${JSON.stringify(options)}`;
    const settings = { ...options, seed: BigInt(options.seed) };
    const several = Array.isArray(prompt) ? prompt : [prompt];
    let index = 0;
    for await (const each of model.generateEach(several, settings)) {
      same(`${label} ${index}`, hex(each.data), data[index]);
      same(`reason of ${label} ${index}`, each.finishReason, reasons[index]);
      same(`position of ${label} ${index}`, each.state.positions[0], positions[index]);
      index += 1;
    }
    same(`texts of ${label}`, await model.generate(prompt, settings), Array.isArray(prompt) ? texts : texts[0]);
    same(`${label}, streamed`, await streamed(model, several[0], settings), texts[0]);
    const last = several.length - 1;
    if (last) same(`${label}, alone`, await model.generate(several[last], { ...settings, number: last }), texts[last]);
  }
  const { forked, again, later, row, losses } = expected.states;
  const primed = await model.prime("ROMEO:\nWhat light");
  same("forked", await model.generate(primed.fork(3, 5), { length: 60, seed: 8 }), forked);
  const live = model.stream("", { state: primed, length: 20, seed: 8 });
  for await (const _ of live);
  same("again", await model.generate(primed, { length: 60, seed: 8 }), again);
  same("later", await model.generate(live.state, { length: 40, seed: 8 }), later);
  const score = await model.score(text);
  if (farthest(primed.rows, row) > 1e-4) found.push(`states differ by ${farthest(primed.rows, row)}`);
  if (farthest(score.perCharacter, losses) > 1e-3) {
    found.push(`losses differ by ${farthest(score.perCharacter, losses)}`);
  }
  return found;
}

/** @param {CharRNN} model @param {string} prompt @param {import("../src/index.js").Options} options */
async function streamed(model, prompt, options) {
  let text = "";
  for await (const piece of model.stream(prompt, { ...options, echo: true })) text += piece;
  return text;
}

/** @param {Uint8Array} data */
function hex(data) {
  return Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {ArrayLike<number>} one @param {ArrayLike<number>} other */
function farthest(one, other) {
  if (one.length !== other.length) return Infinity;
  return Array.from(one).reduce((most, number, i) => Math.max(most, Math.abs(number - other[i])), 0);
}
