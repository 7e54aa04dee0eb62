/**
 * Unicode's two ways to write one character: "é" as one code point, or as "e" and a combining accent. They mean the
 * same (canonical equivalence), but to a model they are different characters.
 */

const EXTENDS = /^[\p{M}\u1160-\u11ff]/u; // a mark, or a Hangul vowel or final consonant

/**
 * A text with what is unknown written in its other form, wherever all of that is known.
 *
 * @param {string[]} characters the text, one code point each.
 * @param {(text: string) => boolean} knows whether all characters of a text are known.
 * @returns {string[]}
 */
export function knownForm(characters, knows) {
  /** @type {string[]} */
  const written = [];
  let done = 0;
  for (let at = 0; at < characters.length; at++) {
    if (at < done || knows(characters[at])) continue;
    let begin = at;
    let end = at + 1;
    while (begin > done && EXTENDS.test(characters[begin])) begin--;
    while (end < characters.length && EXTENDS.test(characters[end])) end++;
    const part = characters.slice(begin, end).join("");
    const form = ["NFC", "NFD"].map((name) => part.normalize(name)).find((each) => each !== part && knows(each));
    if (form !== undefined) {
      written.push(...characters.slice(done, begin), form);
      done = end;
    }
  }
  return [...written.join(""), ...characters.slice(done)];
}
