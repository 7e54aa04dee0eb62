// Shows, below a text, the probability of the selected character and the most likely alternatives.

import { button, make } from "./dom.js";

/** Fill a panel's inspector for one of its characters. */
export function inspection(panel, index) {
  const said = make("p", { role: "status" });
  said.append(...sentence(panel, index));
  const buttons = make("div", { className: "buttons" });
  const words = `Fork after ${shown(panel.characters[index])}`;
  const fork = button(words, words, () => panel.actions.fork(index));
  buttons.append(fork, ...alternatives(panel, index));
  const focused = panel.inspector.contains(document.activeElement)
    ? [...panel.inspector.querySelectorAll("button")].indexOf(document.activeElement)
    : -1;
  panel.inspector.replaceChildren(said, buttons);
  if (focused >= 0) panel.inspector.querySelectorAll("button")[focused]?.focus();
}

function sentence(panel, index) {
  const parts = [make("code", { textContent: shown(panel.characters[index]) }), ` is character ${index + 1}`];
  const { trace } = panel;
  if (trace !== null && index in trace.nats) {
    const percent = percentage(trace.nats[index]);
    parts.push(`: probability ${percent}, ${panel.bits(index).toFixed(1)} bits of surprise`);
    for (const [name, values] of Object.entries(trace.units)) {
      parts.push(`; unit ${name} is ${values[index]?.toFixed(2) ?? "not known here"}`);
    }
  }
  return [...parts, "."];
}

function alternatives(panel, index) {
  const mostLikely = panel.trace?.mostLikely[index];
  if (!mostLikely) return [];
  const buttons = Object.entries(mostLikely)
    .filter(([character]) => character !== panel.characters[index])
    .sort((one, other) => other[1] - one[1])
    .map(([character, nats]) => {
      const percent = percentage(nats);
      const words = `${shown(character)} ${percent}`;
      const element = button(words, `${words}: fork with it here`, () => panel.actions.fork(index, character));
      element.disabled = [...character].length !== 1; // part of a character, at the byte level
      return element;
    });
  return [make("span", { textContent: "Or replace it with:" }), ...buttons];
}

function percentage(nats) {
  const percent = Math.exp(nats) * 100;
  return percent >= 1 ? `${Math.round(percent)} %` : percent >= 0.01 ? `${percent.toPrecision(1)} %` : "< 0.01 %";
}

/** A character in visible form. */
export function shown(character) {
  const names = { "\n": "↵", " ": "␣", "\t": "⇥", "\r": "␍" };
  return names[character] ?? character;
}
