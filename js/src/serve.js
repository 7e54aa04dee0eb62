/** The worker's side: owns a runner, and answers the calls of `WorkerBackend`. */

import { packedError, SettingError } from "./errors.js";
import { importOrt, openModel } from "./opening.js";

/**
 * A message to the worker: a method call, a request for the next value of an iterator, or the end of a call.
 *
 * @typedef {{ id: number, method: string, args: any[] }} Question
 *
 * The response to the message with that id.
 * @typedef {{ id: number, value?: any, done?: boolean, error?: any, progress?: [number, number] }} Answer
 */

const ITERATED = ["generateEach", "stream"];
const CALLED = ["prime", "score", "release"];

/**
 * Answer the calls of the page that started this worker.
 *
 * @param {import("./engine.js").Ort} [ort] onnxruntime's module; by default the one given to `load`.
 * @param {{ postMessage(answer: Answer): void, addEventListener: Function }} [port]
 */
export function serve(ort, port = /** @type {any} */ (globalThis)) {
  /** @type {Promise<import("./runner.js").Runner> | undefined} */
  let opened;
  /** @type {Map<number, AbortController>} */
  const running = new Map();
  /** @type {Map<number, AsyncGenerator<any, void>>} */
  const iterators = new Map();

  /** @param {Question} question @returns {Promise<Omit<Answer, "id">>} */
  async function answer({ id, method, args }) {
    if (method === "load") {
      const [source, url, device] = args;
      const progress = (/** @type {number} */ loaded, /** @type {number} */ total) =>
        port.postMessage({ id, progress: [loaded, total] });
      opened = Promise.resolve(ort ?? importOrt(url, device)).then((each) => openModel(source, each, device, progress));
      return { value: (await opened).info };
    }
    if (method === "next") {
      const [of] = args;
      const { value, done } = (await iterators.get(of)?.next()) ?? { value: undefined, done: true };
      if (done) forget(of);
      return { value, done };
    }
    if (method === "end") {
      const [of] = args;
      running.get(of)?.abort();
      await iterators.get(of)?.return();
      forget(of);
      return {};
    }
    const runner = await opened;
    const controller = new AbortController();
    running.set(id, controller);
    if (runner && ITERATED.includes(method)) {
      iterators.set(id, /** @type {any} */ (runner)[method](...args, controller.signal));
      return {};
    }
    if (!runner || !CALLED.includes(method)) throw new SettingError(`unknown method ${method}`);
    try {
      return { value: await /** @type {any} */ (runner)[method](...args, controller.signal) };
    } finally {
      forget(id);
    }
  }

  /** @param {number} id */
  function forget(id) {
    running.delete(id);
    iterators.delete(id);
  }

  port.addEventListener("message", async (/** @type {MessageEvent<Question>} */ { data }) => {
    try {
      port.postMessage({ id: data.id, ...(await answer(data)) });
    } catch (error) {
      port.postMessage({ id: data.id, error: packedError(error) });
    }
  });
}
