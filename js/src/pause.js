/** Lets a thread do what else it has to do: paint, answer messages, hear of an abort. */

/** @type {(() => void)[]} */
const waiting = [];
/** @type {MessageChannel | undefined} */
let channel;

/**
 * Wait for the thread's next task. Timers would do, but browsers delay them more and more.
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
