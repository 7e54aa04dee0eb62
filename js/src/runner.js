/**
 * Runs the calls of a model, in the thread that owns it.
 *
 * All arguments and results can be posted between threads, so `CharRNN` uses a runner in its own thread and one in a
 * worker alike. Therefore states are plain `StateParts`.
 */

import { Batch, Stream } from "./batch.js";
import { concatenated } from "./bytes.js";
import { Settings } from "./options.js";
import { OutputBytes, OutputText } from "./output-text.js";
import { pause } from "./pause.js";
import { State, UNSTARTED, checkState } from "./state.js";

/** @typedef {import("./options.js").Options} Options */
/** @typedef {import("./state.js").StateParts} StateParts */
/** @typedef {import("./vocabulary.js").Unknown} Unknown */
/** @typedef {string | Uint8Array} Text */

/**
 * A finished stream.
 *
 * @template {StateParts} [S=State]
 * @typedef {object} Generated
 * @property {number} index the index of the prompt, from 0.
 * @property {string} prompt the prompt, as read.
 * @property {string} text the generated text, without the prompt and the stop text.
 * @property {Uint8Array} data prompt and text as bytes: UTF-8, or at the byte level the raw bytes that the model
 *   wrote.
 * @property {S} state the final state of the stream.
 * @property {bigint} seed the seed.
 * @property {"stop" | "length"} finishReason the finish reason.
 */

/**
 * A piece of a stream's text; the last one includes the final state and the finish reason.
 *
 * @typedef {{ text: string, generated: number, state?: StateParts, finishReason?: "stop" | "length" }} Part
 */

/** The default number of concurrent streams; more do not increase throughput. */
const ROWS = 64;

/** The interval between pieces of a stream, and the longest time a thread is busy without a pause, in milliseconds. */
const PART_TIME = 10;

export class Runner {
  /** @param {import("./engine.js").Engine} engine */
  constructor(engine) {
    this._engine = engine;
    this.info = engine.info;
    this.vocabulary = engine.file.vocabulary;
  }

  /**
   * @param {readonly Text[] | StateParts} prompts
   * @param {Options} options
   * @param {AbortSignal} [signal]
   * @returns {AsyncGenerator<Generated<StateParts>, void>}
   */
  async *generateEach(prompts, options, signal) {
    const settings = this._settings(options);
    const { unknown, number, stop, seed } = settings;
    const state = Array.isArray(prompts)
      ? State.start(prompts.length, this.info.stateSize, number)
      : checkState(new State(/** @type {StateParts} */ (prompts)), this.info);
    const several = Array.isArray(prompts) && prompts.length > 1;
    const ids = Array.from({ length: state.length }, (_, i) =>
      Array.isArray(prompts) ? this.vocabulary.encode(prompts[i], unknown, several ? i : undefined) : new Int32Array(),
    );
    const streams = ids.map((each, i) => this._stream(state, i, each, settings));
    for await (const index of this._run(streams, settings, signal)) {
      const written = new OutputBytes(this.vocabulary, stop);
      const data = concatenated([written.push(streams[index].tokens), written.finish()]);
      const head = this.vocabulary.decodeBytes(ids[index]);
      yield {
        index,
        prompt: decoded(head),
        text: decoded(data),
        data: concatenated([head, data]),
        state: stateOf([streams[index]]),
        seed,
        finishReason: /** @type {"stop" | "length"} */ (streams[index].finished),
      };
    }
  }

  /**
   * @param {Text} prompt
   * @param {StateParts | undefined} state
   * @param {Options} options
   * @param {AbortSignal} [signal]
   * @returns {AsyncGenerator<Part, void>}
   */
  async *stream(prompt, state, options, signal) {
    const settings = this._settings(options);
    const start = this._start(state, 1, settings.number);
    const ids = this.vocabulary.encode(prompt, settings.unknown);
    const stream = this._stream(start, 0, ids, settings);
    const written = new OutputText(this.vocabulary, settings.stop);
    let text = options.echo ? written.begin(this.vocabulary.decodeBytes(ids)) : "";
    let taken = 0;
    let last = performance.now();
    for await (const _ of this._steps([stream], settings, signal)) {
      const { length } = stream.tokens;
      const due = taken === 0 || performance.now() - last >= PART_TIME; // the first character immediately
      if (!due || length === taken || stream.finished) continue;
      text += written.push(stream.tokens.slice(taken));
      taken = length;
      if (text) yield { text, generated: taken };
      text = "";
      last = performance.now();
    }
    text += written.push(stream.tokens.slice(taken)) + written.finish();
    yield { text, generated: stream.tokens.length, state: stateOf([stream]), finishReason: stream.finished };
  }

  /**
   * @param {readonly Text[]} texts
   * @param {StateParts | undefined} state
   * @param {Unknown} unknown
   * @param {AbortSignal} [signal]
   * @returns {Promise<StateParts>}
   */
  async prime(texts, state, unknown, signal) {
    const streams = this._readers(texts, this._start(state, texts.length, 0), unknown, false);
    await this._finish(streams, signal);
    return stateOf(streams);
  }

  /**
   * @param {readonly Text[]} texts
   * @param {StateParts | undefined} state
   * @param {Unknown} unknown
   * @param {AbortSignal} [signal]
   * @returns {Promise<{ losses: Float32Array[], states: StateParts[] }>}
   */
  async score(texts, state, unknown, signal) {
    const begin = this._start(state, texts.length, 0);
    const tokens = begin.tokens.map((token) => (token === UNSTARTED ? this.info.startToken : token));
    const streams = this._readers(texts, new State({ ...begin, tokens }), unknown, true);
    await this._finish(streams, signal);
    return {
      losses: streams.map(({ losses }) => losses ?? new Float32Array()),
      states: streams.map((stream) => stateOf([stream])),
    };
  }

  /** Free the model's memory. The runner cannot be used afterwards. */
  release() {
    return this._engine.release();
  }

  /** @param {Options} options */
  _settings(options) {
    return new Settings(options, this.vocabulary, this.info.topKMax);
  }

  /** @param {StateParts | undefined} state @param {number} streams @param {number} number */
  _start(state, streams, number) {
    return state ? checkState(new State(state), this.info, streams) : State.start(streams, this.info.stateSize, number);
  }

  /**
   * A stream that reads the pending id (or the start token), then ids.
   *
   * @param {State} state
   * @param {number} i
   * @param {Int32Array} ids
   * @param {Settings} settings
   */
  _stream(state, i, ids, { length, seed, stopIds }) {
    const pending = state.tokens[i];
    const fresh = ids.length ? [] : [length ? this.info.startToken : UNSTARTED];
    return new Stream(
      {
        ids: [...(pending === UNSTARTED ? fresh : [pending]), ...ids],
        row: state.row(i),
        length,
        number: state.numbers[i],
        position: state.positions[i],
        stop: stopIds,
      },
      seed,
    );
  }

  /** @param {readonly Text[]} texts @param {State} state @param {Unknown} unknown @param {boolean} scores */
  _readers(texts, state, unknown, scores) {
    const several = texts.length > 1;
    return texts.map((text, i) => {
      const ids = this.vocabulary.encode(text, unknown, several ? i : undefined);
      const { request } = this._stream(state, i, ids, this._settings({ length: 0, seed: 0 }));
      return new Stream({ ...request, scores }, 0n);
    });
  }

  /** Run streams to their end. @param {Stream[]} streams @param {AbortSignal} [signal] */
  async _finish(streams, signal) {
    const settings = this._settings({ seed: 0 });
    for await (const _ of this._steps(streams, settings, signal)) continue;
  }

  /**
   * Run streams, and yield the index of each as soon as it and all earlier ones are finished.
   *
   * @param {Stream[]} streams
   * @param {Settings} settings
   * @param {AbortSignal} [signal]
   */
  async *_run(streams, settings, signal) {
    let given = 0;
    for await (const _ of this._steps(streams, settings, signal)) {
      while (streams[given]?.finished) yield given++;
    }
    while (given < streams.length) yield given++;
  }

  /**
   * Run the steps of streams in batches, pausing in between.
   *
   * @param {Stream[]} streams
   * @param {Settings} settings
   * @param {AbortSignal} [signal]
   */
  async *_steps(streams, settings, signal) {
    const waiting = streams.filter((stream) => !stream.finished).reverse(); // the next one is last
    const first = waiting.splice(-(settings.maxBatchSize ?? ROWS)).reverse();
    let running = first.length;
    if (!running) return;
    const batch = new Batch(this._engine, settings, first);
    let last = performance.now();
    while (running) {
      signal?.throwIfAborted();
      const finished = await batch.step();
      for (const row of finished.keys()) {
        const next = waiting.pop();
        if (next) batch.join(batch.streams.indexOf(undefined), next);
        else running -= 1;
        if (row === finished.length - 1) batch.compact();
      }
      yield;
      if (performance.now() - last < PART_TIME) continue;
      await pause();
      last = performance.now();
    }
  }
}

/** The state of finished streams. @param {readonly Stream[]} streams @returns {StateParts} */
function stateOf(streams) {
  const size = streams[0].row.length;
  const rows = new Float32Array(streams.length * size);
  streams.forEach((stream, i) => rows.set(stream.row, i * size));
  return {
    rows,
    tokens: Int32Array.from(streams, (stream) => stream.next),
    numbers: Float64Array.from(streams, (stream) => stream.request.number),
    positions: Float64Array.from(streams, (stream) => stream.position),
  };
}

/** @param {Uint8Array} data */
function decoded(data) {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(data);
}
