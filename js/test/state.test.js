import assert from "node:assert/strict";
import { test } from "node:test";

import { SettingError, State, UNSTARTED } from "../src/index.js";

/** Two streams with rows of three numbers. */
function two() {
  return new State({
    rows: Float32Array.of(1, 2, 3, 4, 5, 6),
    tokens: Int32Array.of(7, UNSTARTED),
    numbers: Float64Array.of(0, 9),
    positions: Float64Array.of(3, 0),
  });
}

test("streams are selected, forked and concatenated with all their values", () => {
  const state = two();
  assert.equal(state.length, 2);
  assert.deepEqual([...state.at(-1).rows], [4, 5, 6]);
  assert.deepEqual([...state.slice(1).numbers], [9]);
  assert.deepEqual([...state.slice(-2, -1).rows], [1, 2, 3]);
  assert.equal(state.slice(2).length, 0);
  const forked = state.fork(2, 5);
  assert.deepEqual([...forked.rows], [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6]);
  assert.deepEqual([...forked.numbers], [5, 6, 7, 8]);
  assert.deepEqual([...forked.positions], [3, 3, 0, 0]);
  assert.deepEqual([...forked.tokens], [7, 7, UNSTARTED, UNSTARTED]);
  const joined = State.concatenate([state.at(1), state]);
  assert.deepEqual([...joined.rows], [4, 5, 6, 1, 2, 3, 4, 5, 6]);
  assert.deepEqual([...joined.numbers], [9, 0, 9]);
});

test("a state is its own copy, and survives being stored", () => {
  const rows = Float32Array.of(1, 2, 3);
  const parts = { rows, tokens: Int32Array.of(0), numbers: Float64Array.of(0), positions: Float64Array.of(0) };
  const state = new State(parts);
  rows[0] = 99;
  assert.equal(state.rows[0], 1);
  assert.deepEqual(new State(structuredClone({ ...state })), state);
  assert.throws(() => Object.assign(state, { rows }), TypeError);
});

test("invalid states are refused", () => {
  const good = { ...two() };
  for (const bad of [
    { rows: [1, 2, 3] },
    { rows: Float32Array.of(1, 2, 3) },
    { rows: Float32Array.of(1, 2, 3, 4, 5, NaN) },
    { tokens: Int32Array.of(-2, 0) },
    { tokens: Int32Array.of(1, 2, 3) },
    { numbers: Float64Array.of(-1, 0) },
    { numbers: Float64Array.of(0.5, 0) },
    { positions: Float64Array.of(2 ** 53, 0) },
  ]) {
    assert.throws(() => new State(/** @type {any} */ ({ ...good, ...bad })), SettingError, JSON.stringify(bad));
  }
  for (const [copies, first] of [
    [0, 0],
    [1.5, 0],
    [1, -1],
  ])
    assert.throws(() => two().fork(copies, first), SettingError);
  assert.throws(() => State.concatenate([]), SettingError);
  assert.throws(() => State.concatenate([two(), State.start(1, 4)]), SettingError);
  assert.throws(() => two().at(2), SettingError);
});
