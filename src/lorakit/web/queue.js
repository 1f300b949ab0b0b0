/**
 * One run at a time. onnxruntime-web runs one session at once, and a request whose adapters were
 * chosen when it came must not see those of another: so all that runs in a page stands in one line.
 */

import { LorakitError } from './errors.js';

let last = Promise.resolve();

/**
 * Run a task when its turn comes. A signal that aborts takes a waiting task out of the line.
 * @template T @param {() => Promise<T>} task @param {AbortSignal} [signal] @returns {Promise<T>}
 */
export function inTurn(task, signal) {
  throwIfAborted(signal);
  const before = last;
  const turn = before.then(() => {
    throwIfAborted(signal);
    return task();
  });
  last = turn.then(() => {}, () => {});
  return signal ? Promise.race([turn, aborted(signal, before)]) : turn;
}

/** @param {AbortSignal} [signal] */
export function throwIfAborted(signal) {
  if (signal?.aborted) throw cancelled();
}

export function cancelled() {
  return new LorakitError('the request was cancelled', { code: 'cancelled' });
}

/** Rejects when the signal aborts before the turn came; a task that runs sees the signal itself. */
function aborted(signal, before) {
  return new Promise((_, reject) => {
    const stop = () => reject(cancelled());
    signal.addEventListener('abort', stop, { once: true });
    before.then(() => signal.removeEventListener('abort', stop));
  });
}

/** Lets the page paint and hear: a macrotask, without the delay that timers have. */
export function breathe() {
  if (typeof setImmediate === 'function') return new Promise((resolve) => setImmediate(resolve));
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
