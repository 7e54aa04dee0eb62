/** The public interface of a loaded model: it primes, generates, streams and scores. */

import { SettingError, wrong } from "./errors.js";
import { LiveText } from "./live-text.js";
import { Settings, checkNames } from "./options.js";
import { State } from "./state.js";
import { Vocabulary } from "./vocabulary.js";

/** @typedef {import("./options.js").Options} Options */
/** @typedef {import("./runner.js").Text} Text */
/** @typedef {import("./vocabulary.js").Unknown} Unknown */

/**
 * The backend of a model: a `Runner` in this thread, or a proxy for one in a worker.
 *
 * @typedef {import("./runner.js").Runner} Runner
 * @typedef {Pick<Runner, "info" | "generateEach" | "stream" | "prime" | "score" | "release">} Backend
 */

/**
 * The score of a text.
 *
 * @typedef {object} Score
 * @property {number} characters the number of characters (bytes, at the byte level).
 * @property {number} nats the sum of their losses, -ln of the probability of each.
 * @property {Float32Array} perCharacter the loss of each in nats.
 * @property {number} bitsPerCharacter the mean loss in bits; 0 for an empty text.
 * @property {State} state the state after the text.
 */

/** A character-level RNN loaded from a step model file. Calls can run concurrently. */
export class CharRNN {
  /** @param {Backend} backend @param {boolean} inWorker */
  constructor(backend, inWorker) {
    this._backend = backend;
    /** The metadata of the file. */
    this.info = backend.info;
    /** The vocabulary. */
    this.vocabulary = new Vocabulary(this.info.vocabulary, this.info.level);
    /** Whether the model runs in a worker. */
    this.inWorker = inWorker;
  }

  /**
   * The state of fresh streams.
   *
   * @param {number} [streams]
   */
  initialState(streams = 1) {
    if (!Number.isInteger(streams) || streams < 1) throw wrong("streams", "1 or more", streams);
    return State.start(streams, this.info.stateSize);
  }

  /**
   * Generate text.
   *
   * @overload
   * @param {Text} [prompt] the prompt; at the byte level, it may be bytes.
   * @param {Options} [options]
   * @returns {Promise<string>} prompt and text; `echo: false` omits the prompt.
   */
  /**
   * Generate several texts as a batch.
   *
   * @overload
   * @param {readonly Text[] | State} prompts one per stream; or a state to continue from.
   * @param {Options} [options]
   * @returns {Promise<string[]>}
   */
  /**
   * @param {Text | readonly Text[] | State} [prompt]
   * @param {Options} [options]
   * @returns {Promise<string | string[]>}
   */
  async generate(prompt = "", options = {}) {
    const alone = typeof prompt === "string" || prompt instanceof Uint8Array;
    /** @type {string[]} */
    const texts = [];
    for await (const each of this.generateEach(alone ? [prompt] : prompt, options)) {
      // Decode all bytes together: a prompt may end within a sequence that the model completes.
      const whole = new TextDecoder("utf-8", { ignoreBOM: true }).decode(each.data);
      texts.push(options.echo === false ? each.text : whole);
    }
    return alone ? texts[0] : texts;
  }

  /**
   * Generate many streams, and yield each one as soon as it and all earlier ones are finished.
   *
   * @param {readonly Text[] | State} prompts one per stream; or a state to continue from.
   * @param {Options} [options]
   * @returns {AsyncGenerator<import("./runner.js").Generated, void>}
   */
  async *generateEach(prompts, options = {}) {
    if (!(prompts instanceof State) && !Array.isArray(prompts)) {
      throw wrong("prompts", "an array of texts, or a State", prompts);
    }
    const { rest, signal } = this._checked(options);
    for await (const each of this._backend.generateEach(plain(prompts), rest, signal)) {
      yield { ...each, state: new State(each.state) };
    }
  }

  /**
   * Generate one stream incrementally.
   *
   *     for await (const piece of model.stream("LORD ", { seed: 1 })) process.stdout.write(piece);
   *
   * @param {Text} [prompt]
   * @param {Options & { state?: State }} [options] `state`: the state of one stream to continue from.
   * @returns {LiveText} at the end, its `state` is the state of the stream.
   */
  stream(prompt = "", options = {}) {
    const { state = State.start(1, this.info.stateSize, options.number) } = options;
    if (!(state instanceof State)) throw wrong("state", "a State", state);
    const { rest, signal } = this._checked(options);
    const parts = this._backend.stream(prompt, plain(state), rest, signal);
    return new LiveText(parts, state, BigInt(/** @type {bigint} */ (rest.seed)));
  }

  /**
   * Read a text without generating.
   *
   * @param {Text | readonly Text[]} text one text for all streams, or one per stream.
   * @param {{ state?: State, unknown?: Unknown, signal?: AbortSignal }} [options] `state`: the state to continue
   *   from.
   * @returns {Promise<State>} the state after the text; its last character is pending, to be read by the next step.
   */
  async prime(text, options = {}) {
    checkNames(options, ["state", "unknown", "signal"]);
    const { state, unknown = "error", signal } = options;
    let texts = textsOf(text);
    if (state && texts.length === 1) texts = Array(state.length).fill(texts[0]);
    return new State(await this._backend.prime(texts, state && plain(state), unknown, signal));
  }

  /**
   * Measure how well the model predicts a text. The first character is predicted from the start token at a zero state,
   * or from the given state.
   *
   * @overload
   * @param {Text} texts
   * @param {{ state?: State, unknown?: Unknown, signal?: AbortSignal }} [options]
   * @returns {Promise<Score>}
   */
  /**
   * @overload
   * @param {readonly Text[]} texts
   * @param {{ state?: State, unknown?: Unknown, signal?: AbortSignal }} [options]
   * @returns {Promise<Score[]>}
   */
  /**
   * @param {Text | readonly Text[]} texts
   * @param {{ state?: State, unknown?: Unknown, signal?: AbortSignal }} [options]
   * @returns {Promise<Score | Score[]>}
   */
  async score(texts, options = {}) {
    checkNames(options, ["state", "unknown", "signal"]);
    const { state, unknown = "error", signal } = options;
    const found = await this._backend.score(textsOf(texts), state && plain(state), unknown, signal);
    const scores = found.losses.map((losses, i) => scoreOf(losses, new State(found.states[i])));
    return Array.isArray(texts) ? scores : scores[0];
  }

  /** Free the model's memory, and terminate its worker. The model cannot be used afterwards. */
  async close() {
    await this._backend.release();
  }

  /** Validate options in the caller's thread, and draw the seed. @param {Options & { state?: State }} options */
  _checked(options) {
    const { seed } = new Settings(options, this.vocabulary, this.info.topKMax);
    const { signal, state, ...rest } = options;
    return { rest: { ...rest, seed }, signal };
  }
}

/** @param {Text | readonly Text[]} text @returns {readonly Text[]} */
function textsOf(text) {
  if (typeof text === "string" || text instanceof Uint8Array) return [text];
  if (!Array.isArray(text) || !text.length) throw new SettingError("give a text, or a non-empty array of texts");
  return text;
}

/**
 * A value that can be posted to a worker.
 *
 * @template {State | readonly Text[]} Value
 * @param {Value} value
 * @returns {Value extends State ? import("./state.js").StateParts : readonly Text[]}
 */
function plain(value) {
  return /** @type {any} */ (value instanceof State ? { ...value } : value);
}

/** @param {Float32Array} losses @param {State} state @returns {Score} */
function scoreOf(losses, state) {
  const nats = losses.reduce((sum, loss) => sum + loss, 0);
  const characters = losses.length;
  return {
    characters,
    nats,
    perCharacter: losses,
    bitsPerCharacter: characters ? nats / Math.LN2 / characters : 0,
    state,
  };
}
