/**
 * Streams as rows of a batch, which they can join and leave at any character.
 *
 * Each step feeds one character per row: the next one of its prompt, or the one that it sampled last.
 */

import { streamKey, uniformAt } from "./uniforms.js";

/**
 * A stream to run: it reads a prompt, then continues with the ids that it samples.
 *
 * @typedef {object} Request
 * @property {ArrayLike<number>} ids the prompt, one or more ids.
 * @property {Float32Array} row the row of its initial state.
 * @property {number} length the maximum number of ids to sample.
 * @property {number} number the stream number.
 * @property {number} position the number of ids sampled before.
 * @property {readonly Int32Array[]} stop sequences of ids that end the stream when sampled.
 * @property {boolean} [scores] whether to compute the losses of the prompt's ids, from the second on.
 */

/** A running or finished stream. */
export class Stream {
  /** @param {Request} request @param {bigint} seed */
  constructor(request, seed) {
    this.request = request;
    /** @type {number[]} the sampled ids, including a stop text. */
    this.tokens = [];
    /** @type {Float32Array | undefined} -ln of the probability of each prompt id, from the second on. */
    this.losses = request.scores ? new Float32Array(request.ids.length - 1) : undefined;
    /** @type {"stop" | "length" | undefined} the finish reason; undefined while running. */
    this.finished = undefined;
    this.row = request.row; // the final state, once finished
    this.next = request.ids[0]; // the next id to read
    this._read = 0; // the number of ids read
    this._key = streamKey(seed, request.number);
    if (this.reading <= 0 && !request.length) this.finished = "length";
  }

  /** The number of remaining steps that only read. */
  get reading() {
    return this.request.ids.length - 1 - this._read;
  }

  /** The number of ids sampled, including before this request. */
  get position() {
    return this.request.position + this.tokens.length;
  }

  /** The uniform number for the next step. */
  get uniform() {
    return this.reading > 0 ? 0 : uniformAt(this._key, this.position);
  }

  /** Process the result of a step: the sampled id, if the stream is past its prompt. @param {number} sampled */
  advance(sampled) {
    const { ids, length, stop } = this.request;
    if (this.reading > 0) {
      this.next = ids[++this._read];
      if (!this.reading && !length) this.finished = "length";
      return;
    }
    this.tokens.push(sampled);
    this.next = sampled;
    if (stop.some((text) => endsWith(this.tokens, text))) this.finished = "stop";
    else if (this.tokens.length === length) this.finished = "length";
  }
}

/** Streams that run together. */
export class Batch {
  /**
   * @param {import("./engine.js").Engine} engine
   * @param {Pick<import("./options.js").Settings, "temperature" | "topK" | "topP" | "minP">} sampling
   * @param {Stream[]} streams unfinished streams.
   */
  constructor(engine, sampling, streams) {
    this._engine = engine;
    this._sampling = sampling;
    this._size = engine.info.stateSize;
    /** @type {(Stream | undefined)[]} */
    this._streams = [...streams];
    this._inputs = inputsOf(
      engine,
      sampling,
      streams.map(({ row }) => row),
    );
  }

  /** The running streams by row; undefined for idle rows. @returns {readonly (Stream | undefined)[]} */
  get streams() {
    return this._streams;
  }

  /**
   * Run one step for all rows.
   *
   * @returns {Promise<Stream[]>} the streams that finished in this step. Their rows are idle afterwards.
   */
  async step() {
    const running = this._streams.filter((stream) => stream !== undefined);
    const least = Math.min(...running.map((stream) => stream.reading)); // for this many steps, all streams only read
    const scoring = running.some((stream) => stream.losses);
    const { feeds, tokens, uniforms } = this._inputs;
    const purpose = least <= 0 ? "sample" : scoring ? "score" : "read";
    this._streams.forEach((stream, row) => {
      if (!stream) return;
      tokens[2 * row] = stream.next;
      uniforms[row] = stream.uniform;
    });
    const outputs = await this._engine.run(purpose, feeds, least);
    feeds.state = outputs.next_state;
    const sampled = outputs.next_token && halves(outputs.next_token.data);
    /** @type {Stream[]} */
    const finished = [];
    this._streams.forEach((stream, row) => {
      if (!stream) return;
      if (stream.losses && outputs.logits) {
        const at = stream.losses.length - stream.reading;
        stream.losses[at] = loss(
          outputs.logits.data,
          row,
          this._engine.info.vocabularySize,
          stream.request.ids[at + 1],
        );
      }
      stream.advance(sampled ? sampled[2 * row] : 0);
      if (stream.finished) {
        stream.row = this._row(row).slice();
        this._streams[row] = undefined;
        finished.push(stream);
      }
    });
    return finished;
  }

  /** Assign a stream to an idle row. @param {number} row @param {Stream} stream */
  join(row, stream) {
    this._row(row).set(stream.row);
    this._streams[row] = stream;
  }

  /** Drop idle rows if they are at least half of all; idle rows cost as much time as others. */
  compact() {
    const kept = this._streams.flatMap((stream, row) => (stream ? [row] : []));
    if (!kept.length || 2 * kept.length > this._streams.length) return;
    const rows = kept.map((row) => this._row(row).slice());
    this._streams = kept.map((row) => this._streams[row]);
    this._inputs = inputsOf(this._engine, this._sampling, rows);
  }

  /** The state of a row. @param {number} row @returns {Float32Array} */
  _row(row) {
    return this._inputs.feeds.state.data.subarray(row * this._size, (row + 1) * this._size);
  }
}

/**
 * The inputs of a step as tensors, and their arrays that change from step to step.
 *
 * @param {import("./engine.js").Engine} engine
 * @param {Batch["_sampling"]} sampling
 * @param {readonly Float32Array[]} states the state of each row.
 */
function inputsOf({ ort: { Tensor }, info }, { temperature, topK, topP, minP }, states) {
  const rows = states.length;
  const state = new Float32Array(rows * info.stateSize);
  states.forEach((each, row) => state.set(each, row * info.stateSize));
  const token = new BigInt64Array(rows);
  const uniforms = new Float32Array(rows);
  const all = (/** @type {number} */ value) => new Tensor("float32", new Float32Array(rows).fill(value), [rows]);
  /** @type {Record<string, any>} */
  const feeds = {
    token: new Tensor("int64", token, [rows]),
    state: new Tensor("float32", state, [rows, info.stateSize]),
    uniform: new Tensor("float32", uniforms, [rows]),
    temperature: all(temperature),
    top_k: new Tensor("int64", new BigInt64Array(rows).fill(BigInt(topK)), [rows]),
    top_p: all(topP),
    min_p: all(minP),
  };
  return { feeds, tokens: halves(token), uniforms };
}

/** Numbers of 64 bits as their 32-bit halves, the lower one first. @param {BigInt64Array} numbers */
function halves(numbers) {
  return new Int32Array(numbers.buffer, numbers.byteOffset, 2 * numbers.length);
}

/** Whether a sequence of ids ends with another one. @param {number[]} ids @param {Int32Array} text */
function endsWith(ids, text) {
  const before = ids.length - text.length;
  return before >= 0 && text.every((id, i) => ids[before + i] === id);
}

/**
 * -ln of the probability of an id in a row of logits.
 *
 * @param {Float32Array} logits
 * @param {number} row
 * @param {number} width
 * @param {number} id
 */
function loss(logits, row, width, id) {
  const first = row * width;
  let most = -Infinity;
  for (let i = first; i < first + width; i++) most = Math.max(most, logits[i]);
  let sum = 0;
  for (let i = first; i < first + width; i++) sum += Math.exp(logits[i] - most);
  return Math.log(sum) - (logits[first + id] - most);
}
