// Keeps traces up to date while texts grow, without overloading the server.

import { trace } from "./api.js";

const SHORTEST_WAIT = 250; // ms between traces of a text
const PAUSES = 4; // a trace that took t is followed by a pause of PAUSES * t

export class Tracer {
  /**
   * @param {object} hooks - `wanted(panel)` returns the request that a panel needs now, or null;
   *   `arrived(panel, request, trace)` receives the response; `failed(panel, error)` an error
   */
  constructor(hooks) {
    this.hooks = hooks;
    this.waiting = new Set();
    this.shown = new WeakMap(); // the last request for each panel, as JSON
    this.timer = null;
    this.asking = false;
  }

  /** A panel changed: trace it soon, if it needs a new trace. */
  want(panel) {
    this.waiting.add(panel);
    this.plan(0);
  }

  forget(panel) {
    this.waiting.delete(panel);
  }

  plan(wait) {
    if (this.timer === null && !this.asking && this.waiting.size) {
      this.timer = setTimeout(() => this.next(), wait);
    }
  }

  /** One panel at a time, to leave the server's time to the texts. */
  async next() {
    this.timer = null;
    const [panel] = this.waiting;
    if (panel === undefined) return;
    this.waiting.delete(panel);
    const request = this.hooks.wanted(panel);
    const asked = JSON.stringify(request);
    let pause = 0;
    if (request !== null && this.shown.get(panel) !== asked) {
      this.asking = true;
      const begin = performance.now();
      try {
        const answer = await trace(request);
        this.shown.set(panel, asked);
        this.hooks.arrived(panel, request, answer);
      } catch (error) {
        this.hooks.failed(panel, error);
      }
      this.asking = false;
      const took = performance.now() - begin;
      pause = panel.running ? Math.max(SHORTEST_WAIT, PAUSES * took) : 0;
    }
    this.plan(pause);
  }
}
