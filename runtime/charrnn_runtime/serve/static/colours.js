// Maps numbers to the classes of page.css.

/** The bits at which each step of the heat map starts. */
const BITS = [0.5, 1, 2, 3, 4, 5, 6.5, 8];

export const BITS_PER_NAT = 1 / Math.LN2;

/** The class of a surprise in bits; "" for negligible ones. */
export function surpriseClass(bits) {
  const step = BITS.filter((from) => bits >= from).length;
  return step ? `s${step}` : "";
}

/** The class of a unit's value: negative ones are blue, positive ones orange. */
export function unitClass(value) {
  const step = Math.min(5, Math.round(Math.abs(value ?? 0) * 5)); // null: unknown
  return step ? `${value < 0 ? "n" : "p"}${step}` : "";
}

/** Draw the legend of the colours. */
export function drawLegend(element, mode) {
  element.replaceChildren();
  const word = (text) => Object.assign(document.createElement("span"), { textContent: text });
  const box = (name, text) => Object.assign(document.createElement("i"), { className: name, textContent: text });
  if (mode === "surprise") {
    element.append("Surprise, bits:", word(""), ...BITS.map((bits, index) => box(`s${index + 1}`, String(bits))));
    element.ariaLabel = "Colours: surprise in bits, from 0.5 (pale) to 8 or more (red)";
  } else if (mode === "unit") {
    const names = ["n5", "n4", "n3", "n2", "n1", "p0", "p1", "p2", "p3", "p4", "p5"];
    element.append("The unit:", word("−1"), ...names.map((name) => box(name, "\u00a0")), word("1"));
    element.ariaLabel = "Colours: the unit's value, from -1 (blue) to 1 (orange)";
  }
}
