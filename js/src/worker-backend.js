/** The page's side of a worker: a proxy for the runner in the worker. */

import { DeviceError, unpackedError } from "./errors.js";

/** @typedef {import("./model.js").Backend} Backend */

/**
 * A proxy for a runner in a worker.
 *
 * @implements {Backend}
 */
export class WorkerBackend {
  /** @param {Worker} worker a worker whose script calls `serve`. */
  constructor(worker) {
    /** @type {import("./format/metadata.js").ModelInfo} */
    this.info = /** @type {any} */ (undefined); // until loaded
    this._worker = worker;
    this._asked = 0;
    /** @type {unknown} why the worker has ended, if it has. */
    this._failed = undefined;
    /**
     * @type {Map<number, { resolve: (answer: any) => void, reject: (error: unknown) => void, onProgress?: Function }>}
     */
    this._waiting = new Map();
    worker.addEventListener("message", ({ data }) => this._take(data));
    worker.addEventListener("error", (event) => {
      const said = event.message ? `: ${event.message}` : ", or its script cannot be loaded";
      this._end(new DeviceError(`the worker has failed${said}`));
    });
  }

  /**
   * Load a model in the worker.
   *
   * @param {Uint8Array | string} source
   * @param {string | undefined} ort
   * @param {import("./engine.js").Device} device
   * @param {import("./opening.js").OnProgress} [onProgress]
   */
  async load(source, ort, device, onProgress) {
    try {
      const { value } = await this._ask(this._id(), "load", [source, ort, device], onProgress);
      this.info = value;
    } catch (error) {
      this._end(error);
      throw error;
    }
  }

  /** @type {Backend["generateEach"]} */
  generateEach(prompts, options, signal) {
    return this._iterate("generateEach", [prompts, options], signal);
  }

  /** @type {Backend["stream"]} */
  stream(prompt, state, options, signal) {
    return this._iterate("stream", [prompt, state, options], signal);
  }

  /** @type {Backend["prime"]} */
  prime(texts, state, unknown, signal) {
    return this._call("prime", [texts, state, unknown], signal);
  }

  /** @type {Backend["score"]} */
  score(texts, state, unknown, signal) {
    return this._call("score", [texts, state, unknown], signal);
  }

  async release() {
    this._end(new DeviceError("the model was closed; load it again"));
  }

  /** @param {string} method @param {any[]} args @param {AbortSignal} [signal] */
  async _call(method, args, signal) {
    signal?.throwIfAborted();
    const id = this._id();
    const abort = () => this._send(this._id(), "end", [id]);
    signal?.addEventListener("abort", abort);
    try {
      return (await this._ask(id, method, args)).value;
    } catch (error) {
      throw signal?.aborted ? signal.reason : error;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /** @param {string} method @param {any[]} args @param {AbortSignal} [signal] @returns {AsyncGenerator<any, void>} */
  async *_iterate(method, args, signal) {
    signal?.throwIfAborted();
    const id = this._id();
    let ended = false;
    const end = () => this._send(this._id(), "end", [id]);
    signal?.addEventListener("abort", end);
    try {
      await this._ask(id, method, args);
      for (;;) {
        const { value, done } = await this._ask(this._id(), "next", [id]);
        signal?.throwIfAborted();
        ended = done;
        if (done) return;
        yield value;
      }
    } catch (error) {
      throw signal?.aborted ? signal.reason : error;
    } finally {
      signal?.removeEventListener("abort", end);
      if (!ended) end();
    }
  }

  _id() {
    return ++this._asked;
  }

  /**
   * @param {number} id
   * @param {string} method
   * @param {any[]} args
   * @param {Function} [onProgress]
   * @returns {Promise<any>}
   */
  _ask(id, method, args, onProgress) {
    return new Promise((resolve, reject) => {
      if (this._failed) throw this._failed;
      this._waiting.set(id, { resolve, reject, onProgress });
      this._send(id, method, args);
    });
  }

  /** @param {number} id @param {string} method @param {any[]} args */
  _send(id, method, args) {
    if (!this._failed) this._worker.postMessage({ id, method, args });
  }

  /** @param {import("./serve.js").Answer} answer */
  _take({ id, progress, error, ...answer }) {
    const waiting = this._waiting.get(id);
    if (progress) {
      waiting?.onProgress?.(...progress);
      return;
    }
    this._waiting.delete(id);
    if (error) waiting?.reject(unpackedError(error));
    else waiting?.resolve(answer);
  }

  /** Terminate the worker; pending calls fail with an error. @param {unknown} error */
  _end(error) {
    this._failed ??= error;
    this._worker.terminate();
    for (const { reject } of this._waiting.values()) reject(error);
    this._waiting.clear();
  }
}
