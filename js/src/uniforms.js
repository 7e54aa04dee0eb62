/**
 * The random numbers for sampling: a pure function of (seed, stream, position), as specified in docs/format.md.
 *
 *     key = mix(seed + G * (stream + 1))
 *     u   = (mix(key + G * (position + 1)) >> 40) * 2**-24
 *
 * all modulo 2**64, where `mix` is the finalizer of splitmix64. 64-bit numbers are pairs of 32-bit numbers here, since
 * BigInt takes ten times as long.
 */

import { wrong } from "./errors.js";

const G_HIGH = 0x9e3779b9;
const G_LOW = 0x7f4a7c15;
const TWO_32 = 2 ** 32;

/** The high and low halves of the last result. */
let high = 0;
let low = 0;

/**
 * The key of a stream, for `uniformAt`.
 *
 * @typedef {{ high: number, low: number }} Key
 *
 * @param {bigint} seed in [0, 2**64).
 * @param {number} stream the stream number, from 0.
 * @returns {Key}
 */
export function streamKey(seed, stream) {
  timesG(stream + 1);
  add(Number(seed >> 32n), Number(seed & 0xffffffffn));
  mix();
  return { high, low };
}

/**
 * The uniform number of a stream at a position, in [0, 1 - 2**-24]; a float32 holds it exactly.
 *
 * @param {Key} key
 * @param {number} position the number of characters that the stream has generated before.
 */
export function uniformAt(key, position) {
  return bitsAt(key, position) * 2 ** -24;
}

/**
 * The 24 bits of a uniform number.
 *
 * @param {Key} key
 * @param {number} position
 */
export function bitsAt(key, position) {
  timesG(position + 1);
  add(key.high, key.low);
  mix();
  return high >>> 8;
}

/**
 * A seed as a 64-bit number.
 *
 * @param {number | bigint | undefined | null} seed an integer in [0, 2**64); beyond 2**53, a bigint.
 * @returns {bigint} a random one if none is given, short enough to type.
 */
export function checkSeed(seed) {
  if (seed === undefined || seed === null) return BigInt(crypto.getRandomValues(new Uint32Array(1))[0]);
  const whole = typeof seed === "bigint" || Number.isSafeInteger(seed);
  if (!whole || BigInt(seed) < 0n || BigInt(seed) >= 1n << 64n) {
    throw wrong("seed", "an integer between 0 and 2**64 - 1 (from 2**53 on, a bigint)", seed);
  }
  return BigInt(seed);
}

/** Sets (high, low) to G times an integer below 2**53. @param {number} value */
function timesG(value) {
  high = Math.floor(value / TWO_32) | 0;
  low = value | 0;
  multiply(G_HIGH, G_LOW);
}

/** @param {number} otherHigh @param {number} otherLow */
function add(otherHigh, otherLow) {
  const sum = (low >>> 0) + (otherLow >>> 0);
  high = (high + otherHigh + (sum >= TWO_32 ? 1 : 0)) | 0;
  low = sum | 0;
}

/** @param {number} otherHigh @param {number} otherLow */
function multiply(otherHigh, otherLow) {
  // The upper half of low * otherLow, from 16-bit products, which are exact in float64.
  const a = low & 0xffff;
  const b = low >>> 16;
  const c = otherLow & 0xffff;
  const d = otherLow >>> 16;
  const middle = a * d + ((a * c) >>> 16);
  const carried = b * c + (middle % 65536);
  const upper = b * d + Math.floor(middle / 65536) + Math.floor(carried / 65536);
  high = (Math.imul(high, otherLow) + Math.imul(low, otherHigh) + (upper | 0)) | 0;
  low = Math.imul(low, otherLow);
}

/** @param {number} bits below 32 */
function xorShifted(bits) {
  const shifted = (low >>> bits) | (high << (32 - bits));
  high ^= high >>> bits;
  low ^= shifted;
}

/** splitmix64's finalizer, of (high, low) and in place. */
function mix() {
  xorShifted(30);
  multiply(0xbf58476d, 0x1ce4e5b9);
  xorShifted(27);
  multiply(0x94d049bb, 0x133111eb);
  xorShifted(31);
}
