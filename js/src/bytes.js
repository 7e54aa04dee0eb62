/** Functions for byte arrays. */

/**
 * Concatenate byte arrays.
 *
 * @param {readonly Uint8Array[]} parts
 */
export function concatenated(parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
