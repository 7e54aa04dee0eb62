/**
 * Unicode's two representations of a character: "é" as one code point, or as "e" and a combining accent. They are
 * canonically equivalent, but to a model they are different characters.
 */

const EXTENDS = /^[\p{M}\u1160-\u11ff]/u; // a mark, or a Hangul vowel or final consonant

/**
 * Rewrite unknown parts of a text in their other form, if that is fully known.
 *
 * @param {string[]} characters the text as code points.
 * @param {(text: string) => boolean} knows tells whether all characters of a text are known.
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
