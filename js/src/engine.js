/** Creates, caches and runs onnxruntime sessions. */

import { DeviceError, ModelFormatError, oneLine } from "./errors.js";
import { OUTPUTS } from "./format/spec.js";

/**
 * The part of onnxruntime's JavaScript API used here, as in onnxruntime-web and onnxruntime-node.
 *
 * @typedef {object} Ort
 * @property {{ create(data: Uint8Array, options?: any): Promise<any> }} InferenceSession
 * @property {new (type: any, data: any, dims: readonly number[]) => any} Tensor
 * @property {any} env
 */

/** @typedef {"cpu" | "webgpu"} Device */

/**
 * The purpose of a step: sample the next character, only read one, or read one and compute the logits.
 *
 * @typedef {"sample" | "read" | "score"} Purpose
 */

/** The outputs that each purpose needs. */
const WANTED = {
  sample: ["next_token", "next_state"],
  read: ["next_state"],
  score: ["logits", "next_state"],
};

/** The minimum number of characters that pays for a session without the sampler. */
const LONG = 1_000;

/** The tolerance of a trial step's logits on a GPU, relative to the largest value on the CPU. */
const NEAR = { fp32: 1e-3, fp16: 0.05, int8: 0 };

/** A model on a device. Calls can share it: each has its own tensors. */
export class Engine {
  /**
   * @param {Ort} ort
   * @param {import("./format/reader.js").ModelFile} file
   * @param {Device} device
   * @param {any} session for the file's whole graph.
   */
  constructor(ort, file, device, session) {
    this.ort = ort;
    this.file = file;
    this.info = file.info;
    this.device = device;
    /** @type {Map<Purpose, Promise<any>>} */
    this._sessions = new Map([["sample", Promise.resolve(session)]]);
    /** @type {Promise<unknown>} */
    this._last = Promise.resolve(); // the previous run, if runs must be serialized
  }

  /**
   * Prepare a model for a device, and run a trial step of two streams.
   *
   * @param {Ort} ort
   * @param {import("./format/reader.js").ModelFile} file
   * @param {Device} device
   * @param {string} name the name of the model in errors.
   * @throws {ModelFormatError} the graph does not run, or gives invalid results.
   * @throws {DeviceError} the device cannot be used.
   */
  static async create(ort, file, device, name) {
    const failed = `${name} is not a valid charrnn model:`;
    const data = file.bytes();
    let session;
    let expected;
    try {
      session = await createSession(ort, data, "cpu");
      expected = await trialStep(ort, session, file.info);
    } catch (error) {
      throw new ModelFormatError(oneLine(`${failed} onnxruntime reports ${messageOf(error)}`), { cause: error });
    }
    const nonsense = nonsenseIn(expected, file.info);
    if (nonsense) throw new ModelFormatError(`${failed} a trial step ${nonsense}`);
    if (device === "webgpu") {
      await session.release();
      session = await webgpuSession(ort, data, file.info, expected);
    }
    return new Engine(ort, file, device, session);
  }

  /**
   * Run a step.
   *
   * @param {Purpose} purpose
   * @param {Record<string, any>} feeds tensors by input name.
   * @param {number} [steps] the approximate number of such steps to come.
   * @returns {Promise<Record<string, any>>} the tensors needed for the purpose, by output name.
   */
  async run(purpose, feeds, steps = 1) {
    const own = this._sessions.has(purpose) || steps >= LONG;
    const session = await this._session(own ? purpose : "sample");
    const needed = own && purpose !== "sample" ? { token: feeds.token, state: feeds.state } : feeds;
    if (this.device === "cpu") return session.run(needed, WANTED[purpose]);
    const run = this._last.then(() => session.run(needed, WANTED[purpose])); // serialized
    this._last = run.catch(() => {});
    return run;
  }

  /** Free the memory. The model cannot be used afterwards. */
  async release() {
    const sessions = await Promise.allSettled(this._sessions.values());
    this._sessions.clear();
    for (const session of sessions) if (session.status === "fulfilled") await session.value.release();
  }

  /** @param {Purpose} purpose */
  _session(purpose) {
    let session = this._sessions.get(purpose);
    if (!session) {
      if (!this._sessions.size) throw new DeviceError("the model was closed; load it again");
      session = createSession(this.ort, this.file.bytes(WANTED[purpose]), this.device);
      this._sessions.set(purpose, session);
    }
    return session;
  }
}

/** @param {Ort} ort @param {Uint8Array} data @param {Device} device */
function createSession(ort, data, device) {
  const { versions, wasm } = ort.env;
  if (wasm) wasm.numThreads = 1; // a second thread slows small steps down
  return ort.InferenceSession.create(data, {
    executionProviders: [device === "webgpu" ? "webgpu" : versions?.node ? "cpu" : "wasm"],
    intraOpNumThreads: 1,
    interOpNumThreads: 1,
    logSeverityLevel: 4, // errors are thrown as exceptions
  });
}

/**
 * @param {Ort} ort
 * @param {Uint8Array} data
 * @param {import("./format/reader.js").ModelInfo} info
 * @param {Trial} expected
 */
async function webgpuSession(ort, data, info, expected) {
  const failed = "device: WebGPU cannot run this model here";
  if (info.precision === "int8") {
    throw new DeviceError(`${failed}: it is an int8 file, which runs on the CPU only; use the fp32 or fp16 file`);
  }
  let outputs;
  let session;
  try {
    session = await createSession(ort, data, "webgpu");
    outputs = await trialStep(ort, session, info);
  } catch (error) {
    throw new DeviceError(oneLine(`${failed}: onnxruntime reports ${messageOf(error)}; device: "cpu" works`), {
      cause: error,
    });
  }
  const scale = expected.logits.reduce((most, logit) => Math.max(most, Math.abs(logit)), 1);
  const { logits } = outputs;
  const apart = expected.logits.reduce((most, logit, i) => Math.max(most, Math.abs(logit - logits[i])), 0);
  const wrong = nonsenseIn(outputs, info);
  if (wrong || !(apart <= NEAR[info.precision] * scale)) {
    throw new DeviceError(`${failed}: a trial step ${wrong ?? `gave logits that differ by ${apart} from the CPU's`}`);
  }
  return session;
}

/** @typedef {{ logits: Float32Array, tokens: number[], state: Float32Array }} Trial */

/**
 * A step of two streams.
 *
 * @param {Ort} ort
 * @param {any} session
 * @param {import("./format/reader.js").ModelInfo} info
 * @returns {Promise<Trial>}
 */
async function trialStep(ort, session, info) {
  const { Tensor } = ort;
  const { stateSize, topKMax } = info;
  const last = 2 * stateSize - 1;
  // Not zeros, so that every product counts.
  const state = Float32Array.from({ length: 2 * stateSize }, (_, i) => (2 * i) / last - 1);
  const feeds = {
    token: new Tensor("int64", BigInt64Array.of(BigInt(info.startToken), BigInt(info.vocabularySize - 1)), [2]),
    state: new Tensor("float32", state, [2, stateSize]),
    uniform: new Tensor("float32", Float32Array.of(0, 1 - 2 ** -24), [2]),
    temperature: new Tensor("float32", Float32Array.of(1, 1), [2]),
    top_k: new Tensor("int64", BigInt64Array.of(1n, BigInt(topKMax)), [2]),
    top_p: new Tensor("float32", Float32Array.of(1, 1), [2]),
    min_p: new Tensor("float32", Float32Array.of(0, 0), [2]),
  };
  const outputs = await session.run(
    feeds,
    OUTPUTS.map(({ name }) => name),
  );
  return {
    logits: outputs.logits.data,
    tokens: Array.from(outputs.next_token.data, Number),
    state: outputs.next_state.data,
  };
}

/**
 * What is wrong with the outputs of a trial step, whatever the weights; undefined if nothing.
 *
 * @param {Trial} trial
 * @param {import("./format/reader.js").ModelInfo} info
 */
function nonsenseIn({ logits, tokens, state }, info) {
  if (logits.length !== 2 * info.vocabularySize || tokens.length !== 2 || state.length !== 2 * info.stateSize) {
    return "gave outputs of the wrong shape";
  }
  if (!logits.every(Number.isFinite) || !state.every(Number.isFinite)) {
    return "gave logits or states that are not finite";
  }
  if (tokens.some((token) => token < 0 || token >= info.vocabularySize)) {
    return `gave the tokens ${tokens}, which are not in the vocabulary`;
  }
  return undefined;
}

/** @param {unknown} error */
function messageOf(error) {
  return error instanceof Error ? error.message : String(error);
}
