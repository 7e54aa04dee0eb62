// A text on the page: its characters, the selected one, and the buttons below.

import { BITS_PER_NAT, surpriseClass, unitClass } from "./colours.js";
import { button, make } from "./dom.js";
import { inspection } from "./inspector.js";

const KEEPS_BOTTOM = 8; // new text scrolls into view within this many pixels of the end

/** The actions on a panel: functions of page.js. */
const ACTIONS = ["fork", "stop", "copy", "link", "close", "look", "grown"];

export class Panel {
  /**
   * @param {object} origin - `prompt`, `seed` and `stream` of the text; `from` describes what it was forked from
   * @param {object} actions - see ACTIONS; each receives this panel first
   */
  constructor(origin, actions) {
    this.origin = origin;
    this.characters = []; // code points
    this.spans = []; // one per character
    this.line = null; // the element of the last line; separate lines are laid out separately
    this.waiting = ""; // text for the next frame
    this.given = 0; // the number of characters of the prompt
    this.running = true;
    this.trace = null; // of the first characters, once it has arrived
    this.cursor = -1;
    this.actions = Object.fromEntries(ACTIONS.map((name) => [name, (...rest) => actions[name](this, ...rest)]));
    this.build();
    this.write(origin.prompt, "given");
    this.given = this.characters.length;
    this.tell();
  }

  get text() {
    return this.characters.join("");
  }

  /** The text up to and including a character. */
  upTo(index) {
    return this.characters.slice(0, index + 1).join("");
  }

  build() {
    const { seed, stream, from } = this.origin;
    const title = `Seed ${seed}, stream ${stream}`;
    this.element = make("article", { className: "stream" });
    const heading = make("h2", { textContent: title });
    this.facts = make("p", { className: "facts" });
    this.from = from ? make("p", { className: "facts", textContent: from }) : "";
    this.view = make("div", { className: "text", tabIndex: 0, role: "textbox", ariaReadOnly: "true", ariaMultiLine: "true" });
    this.view.ariaLabel = `Text of seed ${seed}, stream ${stream}. Arrow keys choose a character, Enter forks after it.`;
    this.view.addEventListener("click", (event) => this.click(event));
    this.view.addEventListener("keydown", (event) => this.press(event));
    this.inspector = make("div", { className: "inspector", hidden: true });
    this.error = make("p", { className: "error", role: "alert", hidden: true });
    this.stopButton = button("Stop", `Stop ${title}`, () => this.actions.stop());
    const buttons = make("div", { className: "buttons" });
    buttons.append(
      this.stopButton,
      button("Copy text", `Copy text of ${title}`, () => this.actions.copy()),
      button("Copy link", `Copy link to ${title}`, () => this.actions.link()),
      button("Close", `Close ${title}`, () => this.actions.close()),
    );
    this.element.append(heading, this.from, this.facts, this.view, this.error, this.inspector, buttons);
  }

  /** Append text in the next frame, so that the page stays responsive however fast it arrives. */
  add(text) {
    if (this.waiting === "") requestAnimationFrame(() => this.flush());
    this.waiting += text;
  }

  flush() {
    const atEnd = this.view.scrollHeight - this.view.scrollTop - this.view.clientHeight < KEEPS_BOTTOM;
    const text = this.waiting;
    this.waiting = "";
    this.write(text);
    if (atEnd && this.cursor < 0) this.view.scrollTop = this.view.scrollHeight;
    if (text) this.actions.grown();
  }

  write(text, className = "") {
    for (const character of text) {
      if (this.line === null) {
        this.line = make("div");
        this.view.append(this.line);
      }
      const span = make("span", { textContent: character, className: baseClass(character, className) });
      this.characters.push(character);
      this.spans.push(span);
      this.line.append(span);
      if (character === "\n") this.line = null;
    }
    this.tell();
  }

  /** Mark the text as finished, with a reason of the API or "stopped". */
  end(reason) {
    this.flush();
    this.running = false;
    this.reason = reason;
    this.stopButton.disabled = true;
    this.tell();
  }

  /** Show an error in place of the text. */
  fail(message) {
    this.end("failed");
    this.error.textContent = message;
    this.error.hidden = false;
  }

  tell() {
    const written = this.characters.length - this.given;
    const ends = { length: "complete", stop: "complete", stopped: "stopped", failed: "failed" };
    const state = this.running ? "running" : (ends[this.reason] ?? this.reason);
    this.facts.textContent = `${written.toLocaleString("en")} characters, ${state}`;
  }

  // --- colours -----------------------------------------------------------------------------------------

  /** Store a trace of the text so far, and colour by it. */
  colour(trace, mode, unit) {
    this.trace = byCharacter(trace, this.characters.length);
    const values = this.trace.units[unit] ?? [];
    this.view.classList.toggle("coloured", mode !== "none");
    for (let index = 0; index < this.spans.length; index++) {
      let colour = "";
      if (mode === "surprise" && index < this.trace.nats.length) colour = surpriseClass(this.bits(index));
      if (mode === "unit" && index < values.length) colour = unitClass(values[index]);
      const name = `${baseClass(this.characters[index], index < this.given ? "given" : "")} ${colour}`.trim();
      const span = this.spans[index];
      const wanted = index === this.cursor ? `${name} here`.trim() : name;
      if (span.className !== wanted) span.className = wanted;
    }
    this.inspect();
  }

  bits(index) {
    return Math.max(0, -this.trace.nats[index] * BITS_PER_NAT);
  }

  // --- the selected character -----------------------------------------------------------------

  click(event) {
    if (String(getSelection()) !== "") return; // the user is selecting text
    const index = this.spans.indexOf(event.target.closest("span"));
    if (index < 0) return;
    if (index === this.cursor) this.actions.fork(index);
    else this.moveTo(index);
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.spans.length) return;
    const last = this.spans.length - 1;
    const here = this.cursor < 0 ? last : this.cursor;
    const moves = {
      ArrowLeft: () => (this.cursor < 0 ? last : Math.max(0, here - 1)),
      ArrowRight: () => (this.cursor < 0 ? 0 : Math.min(last, here + 1)),
      ArrowUp: () => this.beside(here, -1),
      ArrowDown: () => this.beside(here, 1),
      Home: () => 0,
      End: () => last,
    };
    if (event.key === "Enter") this.actions.fork(here);
    else if (moves[event.key]) this.moveTo(moves[event.key]());
    else return;
    event.preventDefault();
  }

  /** The character above or below another on the screen. */
  beside(index, way) {
    const place = (at) => this.spans[at].getBoundingClientRect();
    const start = place(index);
    let line = null;
    let best = index;
    for (let at = index + way; at >= 0 && at < this.spans.length; at += way) {
      const box = place(at);
      if (Math.abs(box.top - start.top) < start.height / 2) continue;
      if (line === null) line = box.top;
      if (Math.abs(box.top - line) > start.height / 2) break;
      if (best === index || Math.abs(box.left - start.left) < Math.abs(place(best).left - start.left)) best = at;
    }
    return best;
  }

  moveTo(index) {
    this.spans[this.cursor]?.classList.remove("here");
    this.cursor = index;
    this.spans[index].classList.add("here");
    this.spans[index].scrollIntoView({ block: "nearest" });
    this.inspect();
    this.actions.look();
  }

  /** Show the details of the selected character. */
  inspect() {
    this.inspector.hidden = this.cursor < 0;
    if (this.cursor >= 0) inspection(this, this.cursor);
  }
}

/** A trace per character: at the byte level, bytes are merged. */
function byCharacter(trace, most) {
  const nats = [];
  const mostLikely = [];
  const units = Object.fromEntries(Object.keys(trace.units).map((name) => [name, []]));
  trace.text_offset.forEach((offset, at) => {
    if (offset >= most) return;
    nats[offset] = (nats[offset] ?? 0) + trace.token_logprobs[at];
    mostLikely[offset] ??= trace.top_logprobs[at];
    for (const name in units) units[name][offset] = trace.units[name][at];
  });
  return { nats, mostLikely, units };
}

function baseClass(character, className) {
  return character === "\n" ? `${className} newline`.trim() : className;
}
