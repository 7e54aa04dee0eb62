/** The incremental text of one stream. */

import { State } from "./state.js";

/**
 * The text of one stream: `for await (const piece of text)`. Leaving the loop cancels it, as `close` does.
 *
 * @implements {AsyncIterableIterator<string>}
 */
export class LiveText {
  /**
   * @param {AsyncGenerator<import("./runner.js").Part, void>} parts
   * @param {State} state
   * @param {bigint} seed
   */
  constructor(parts, state, seed) {
    this._parts = parts;
    /** The seed. */
    this.seed = seed;
    /** The state of the stream; until the end, its initial state. */
    this.state = state;
    /** The number of characters (bytes, at the byte level) sampled so far. */
    this.generated = 0;
    /** @type {"stop" | "length" | "cancelled" | undefined} the finish reason; undefined while running. */
    this.finishReason = undefined;
  }

  /** @returns {Promise<IteratorResult<string, undefined>>} */
  async next() {
    for (;;) {
      const { value } = await this._parts.next();
      if (!value) return { done: true, value: undefined };
      this.generated = value.generated;
      if (value.state) {
        this.state = new State(value.state);
        this.finishReason = value.finishReason;
      }
      if (value.text) return { done: false, value: value.text };
    }
  }

  /** @returns {Promise<IteratorResult<string, undefined>>} */
  async return() {
    await this.close();
    return { done: true, value: undefined };
  }

  /** Cancel the stream; pending output is dropped. */
  async close() {
    await this._parts.return();
    this.finishReason ??= "cancelled";
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}
