/**
 * The protobuf messages of ONNX that step models use.
 *
 * Field names and numbers are those of onnx.proto (ONNX 1.12, IR version 8). Fields that step models do not use are
 * omitted on purpose, so that they are unknown.
 */

/** The kinds of fields that are not messages. */
export const INT32 = "int32";
export const INT64 = "int64";
export const STRING = "string";
export const BYTES = "bytes";

/**
 * Message -> field number -> name, kind, and whether it is repeated.
 *
 * @type {Record<string, Record<number, [name: string, kind: string, repeated?: true]>>}
 */
export const MESSAGES = {
  ModelProto: {
    1: ["ir_version", INT64],
    2: ["producer_name", STRING],
    7: ["graph", "GraphProto"],
    8: ["opset_import", "OperatorSetIdProto", true],
    14: ["metadata_props", "StringStringEntryProto", true],
  },
  GraphProto: {
    1: ["node", "NodeProto", true],
    2: ["name", STRING],
    5: ["initializer", "TensorProto", true],
    11: ["input", "ValueInfoProto", true],
    12: ["output", "ValueInfoProto", true],
  },
  NodeProto: {
    1: ["input", STRING, true],
    2: ["output", STRING, true],
    3: ["name", STRING],
    4: ["op_type", STRING],
    5: ["attribute", "AttributeProto", true],
    7: ["domain", STRING],
  },
  AttributeProto: { 1: ["name", STRING], 3: ["i", INT64], 8: ["ints", INT64, true], 20: ["type", INT32] },
  TensorProto: { 1: ["dims", INT64, true], 2: ["data_type", INT32], 8: ["name", STRING], 9: ["raw_data", BYTES] },
  ValueInfoProto: { 1: ["name", STRING], 2: ["type", "TypeProto"] },
  TypeProto: { 1: ["tensor_type", "TypeProtoTensor"] },
  TypeProtoTensor: { 1: ["elem_type", INT32], 2: ["shape", "TensorShapeProto"] },
  TensorShapeProto: { 1: ["dim", "Dimension", true] },
  Dimension: { 1: ["dim_value", INT64], 2: ["dim_param", STRING] },
  OperatorSetIdProto: { 1: ["domain", STRING], 2: ["version", INT64] },
  StringStringEntryProto: { 1: ["key", STRING], 2: ["value", STRING] },
};

/**
 * The names of the most relevant unknown fields in errors.
 *
 * @type {Record<string, string>}
 */
export const REJECTED = {
  "ModelProto 20": "training information",
  "ModelProto 25": "functions",
  "GraphProto 15": "sparse tensors",
  "AttributeProto 2": "a floating-point attribute",
  "AttributeProto 4": "a string attribute",
  "AttributeProto 5": "a tensor attribute",
  "AttributeProto 6": "a graph attribute",
  "AttributeProto 10": "tensor attributes",
  "AttributeProto 11": "graph attributes",
  "AttributeProto 22": "a sparse tensor attribute",
  "TensorProto 4": "a tensor whose numbers are not stored as raw data",
  "TensorProto 13": "external data",
  "TensorProto 14": "a data location (external data)",
  "TypeProto 4": "a sequence type",
  "TypeProto 5": "a map type",
  "TypeProto 9": "an optional type",
};

/** The encodings of fields. */
export const VARINT = 0;
export const LENGTH_DELIMITED = 2;
