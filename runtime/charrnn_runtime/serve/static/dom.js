// Creates elements.

/** An element with some properties. */
export function make(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}

/** A button, with a longer accessible name. */
export function button(text, label, onClick) {
  const element = make("button", { type: "button", textContent: text, ariaLabel: label });
  element.addEventListener("click", onClick);
  return element;
}
