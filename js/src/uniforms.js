/**
 * The random numbers of generation: a pure function of (seed, stream, position), as docs/format.md has it.
 *
 *     key = mix(seed + G * (stream + 1))
 *     u   = (mix(key + G * (position + 1)) >> 40) * 2**-24
 *
 * all modulo 2**64, where `mix` is the finalizer of splitmix64. A number of 64 bits is two of 32 here, since BigInt
 * takes ten times as long.
 */

import { wrong } from "./errors.js";

const G_HIGH = 0x9e3779b9;
const G_LOW = 0x7f4a7c15;
const TWO_32 = 2 ** 32;

/** The high and low halves of the number that was computed last. */
let high = 0;
let low = 0;

/**
 * The key of a stream, from which `uniformAt` draws.
 *
 * @typedef {{ high: number, low: number }} Key
 *
 * @param {bigint} seed in [0, 2**64).
 * @param {number} stream the number of the stream, from 0.
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
 * @param {number} position how many characters the stream has generated before this one.
 */
export function uniformAt(key, position) {
  return bitsAt(key, position) * 2 ** -24;
}

/**
 * The 24 bits that a uniform number is made of.
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
 * A seed as a number of 64 bits.
 *
 * @param {number | bigint | undefined | null} seed a whole number in [0, 2**64); beyond 2**53, a bigint.
 * @returns {bigint} a fresh one if none is given, short enough to be typed again.
 */
export function checkSeed(seed) {
  if (seed === undefined || seed === null) return BigInt(crypto.getRandomValues(new Uint32Array(1))[0]);
  const whole = typeof seed === "bigint" || Number.isSafeInteger(seed);
  if (!whole || BigInt(seed) < 0n || BigInt(seed) >= 1n << 64n) {
    throw wrong("seed", "a whole number between 0 and 2**64 - 1 (from 2**53 on, a bigint)", seed);
  }
  return BigInt(seed);
}

/** Sets (high, low) to G times a whole number below 2**53. @param {number} value */
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
  // The upper half of low * otherLow, from products of 16 bits, which a float64 holds exactly.
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
