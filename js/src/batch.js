/**
 * Streams as the rows of a batch, which join and leave it at any character.
 *
 * Each step feeds one character per row: of its prompt while it reads that, then the one that it sampled last.
 */

import { streamKey, uniformAt } from "./uniforms.js";

/**
 * A stream to run: it reads ids, and continues with what it samples.
 *
 * @typedef {object} Request
 * @property {ArrayLike<number>} ids what it reads first, one or more.
 * @property {Float32Array} row its row of the state before them.
 * @property {number} length how many ids it then samples at most.
 * @property {number} number the stream's number.
 * @property {number} position how many ids it has sampled before.
 * @property {readonly Int32Array[]} stop it ends once it has sampled one of these.
 * @property {boolean} [scores] whether the losses of its ids are wanted, from the second on.
 */

/** A stream that is running, or has finished. */
export class Stream {
  /** @param {Request} request @param {bigint} seed */
  constructor(request, seed) {
    this.request = request;
    /** @type {number[]} what it has sampled; a stop text is among it. */
    this.tokens = [];
    /** @type {Float32Array | undefined} -ln of the probability of each id that it read, from the second on. */
    this.losses = request.scores ? new Float32Array(request.ids.length - 1) : undefined;
    /** @type {"stop" | "length" | undefined} why it ended; undefined until then. */
    this.finished = undefined;
    this.row = request.row; // of the state, once it has finished
    this.next = request.ids[0]; // the id that it reads next
    this._read = 0; // how many ids it has read
    this._key = streamKey(seed, request.number);
    if (this.reading <= 0 && !request.length) this.finished = "length";
  }

  /** How many steps it only reads for, from now on. */
  get reading() {
    return this.request.ids.length - 1 - this._read;
  }

  /** How many ids it has sampled, before this request too. */
  get position() {
    return this.request.position + this.tokens.length;
  }

  /** The uniform number of the next step. */
  get uniform() {
    return this.reading > 0 ? 0 : uniformAt(this._key, this.position);
  }

  /** Take what a step gave: the id that it sampled, if it was to sample one. @param {number} sampled */
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

/** Some streams that run together. */
export class Batch {
  /**
   * @param {import("./engine.js").Engine} engine
   * @param {Pick<import("./options.js").Settings, "temperature" | "topK" | "topP" | "minP">} sampling
   * @param {Stream[]} streams none of them finished.
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

  /** The streams that run, by row; undefined where a row is idle. @returns {readonly (Stream | undefined)[]} */
  get streams() {
    return this._streams;
  }

  /**
   * Run one step of all rows.
   *
   * @returns {Promise<Stream[]>} the streams that have finished with it. Their rows are idle now.
   */
  async step() {
    const running = this._streams.filter((stream) => stream !== undefined);
    const least = Math.min(...running.map((stream) => stream.reading)); // for so many steps all of them only read
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

  /** Let a stream take an idle row. @param {number} row @param {Stream} stream */
  join(row, stream) {
    this._row(row).set(stream.row);
    this._streams[row] = stream;
  }

  /** Drop idle rows where they are half of all, or more; a step takes as long for them as for others. */
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
 * The inputs of a step, as tensors, and the numbers in them that change from step to step.
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

/** Whether some ids end with others. @param {number[]} ids @param {Int32Array} text */
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
