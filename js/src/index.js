/** charrnn: run character-level RNNs from step model files, in browsers and Node. */

export { CharRNNError, DeviceError, ModelFormatError, SettingError, UnknownCharacterError } from "./errors.js";
export { LiveText } from "./live-text.js";
export { load } from "./load.js";
export { CharRNN } from "./model.js";
export { State, UNSTARTED } from "./state.js";
export { Vocabulary } from "./vocabulary.js";

/** @typedef {import("./format/metadata.js").ModelInfo} ModelInfo */
/** @typedef {import("./load.js").LoadOptions} LoadOptions */
/** @typedef {import("./model.js").Score} Score */
/** @typedef {import("./options.js").Options} Options */
/** @typedef {import("./runner.js").Generated} Generated */
