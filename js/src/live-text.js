/** The text of one stream, as it comes. */

import { State } from "./state.js";

/**
 * The text of one stream: `for await (const piece of text)`. A loop that is left ends it, as `close` does.
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
    /** The seed that is used. */
    this.seed = seed;
    /** The state of the stream; until its text has ended, the state before it. */
    this.state = state;
    /** How many characters (bytes, at the byte level) were sampled so far. */
    this.generated = 0;
    /** @type {"stop" | "length" | "cancelled" | undefined} why it ended; undefined until then. */
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

  /** End it here; what was held back is dropped. */
  async close() {
    await this._parts.return();
    this.finishReason ??= "cancelled";
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}
