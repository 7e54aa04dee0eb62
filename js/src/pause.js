/** Yields to the event loop: to paint, answer messages, and notice aborts. */

/** @type {(() => void)[]} */
const waiting = [];
/** @type {MessageChannel | undefined} */
let channel;

/**
 * Wait for the thread's next task. Browsers increasingly delay timers, so messages are used instead.
 *
 * @returns {Promise<void>}
 */
export function pause() {
  return new Promise((resolve) => {
    if (typeof setImmediate === "function") {
      setImmediate(resolve);
      return;
    }
    if (!channel) {
      channel = new MessageChannel();
      channel.port1.onmessage = () => waiting.shift()?.();
    }
    waiting.push(resolve);
    channel.port2.postMessage(undefined);
  });
}
