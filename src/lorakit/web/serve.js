/**
 * A model behind messages: what a worker runs. The other side is remote.js.
 *
 * In: { id, op, args, tells }, tells: whether progress is wanted. Out: { id, type: 'done' | 'error' | 'event' | 'progress', ... }, with what
 * the page reads without asking (adapters, warnings). Messages are taken in their order, so that
 * an apply acts on the chat after it.
 */

import { LoadedAdapter } from './adapters.js';
import { LorakitError } from './errors.js';
import { openModel } from './model.js';

/**
 * Serve one model on a port (a worker's `self`, or a MessagePort).
 * @param {any} port @param {{transformers?: any}} [given] the module, where a bundler put it
 */
export function serve(port, given = {}) {
  const server = new Server(port, given);
  port.addEventListener('message', ({ data }) => server.receive(data));
  port.start?.();
}

class Server {
  constructor(port, given) {
    this.port = port;
    this.given = given;
    this.model = null;
    /** @type {Map<number, AbortController>} */
    this.running = new Map();
  }

  async receive({ id, op, args, tells }) {
    if (op === 'abort') {
      this.running.get(id)?.abort();
      return;
    }
    const controller = new AbortController();
    this.running.set(id, controller);
    try {
      const progress = tells ? (event) => this.post({ id, type: 'progress', event }) : undefined;
      const value = await this.operate(op, args, { id, signal: controller.signal, progress });
      this.post({ id, type: 'done', value });
    } catch (error) {
      this.post({ id, type: 'error', error: plainError(error) });
    } finally {
      this.running.delete(id);
    }
  }

  operate(op, args, { id, signal, progress }) {
    if (op === 'open') return this.open(args, { signal, progress });
    if (!this.model) throw new LorakitError('no model is open', { code: 'closed' });
    const { model } = this;
    const operations = {
      load: ([config]) => model.load({ ...config, signal, progress }).then((found) => found && [found.name, found.serial]),
      apply: ([what, scale]) => model.apply(this.handle(what), scale),
      remove: ([what]) => model.remove(this.handle(what)),
      unload: ([what]) => model.unload(this.handle(what)),
      clear: () => model.clear(),
      chat: ([messages, options]) => model.chat(messages, { ...options, signal }),
      complete: ([prompt, options]) => model.complete(prompt, { ...options, signal }),
      batch: ([requests]) => model.batch(requests, { signal }),
      events: ([messages, options]) => this.tell(id, this.model.events(messages, { ...options, signal })),
      close: () => model.close(),
    };
    return operations[op](args);
  }

  /** What stands for a handle in a message, as one. No scale is an object. */
  handle(what) {
    const { name, serial } = what?.handle ?? {};
    return serial === undefined ? what : new LoadedAdapter(this.model, name, serial);
  }

  async open([source, options], { signal, progress }) {
    this.model = await openModel(source, { ...this.given, ...options, signal, progress });
    const { device, dtype, facts, takesAdapters } = this.model;
    return { device, dtype, facts, takesAdapters };
  }

  async tell(id, events) {
    for await (const event of events) this.post({ id, type: 'event', event });
  }

  post(message) {
    const { adapters = [], warnings = [], table } = this.model ?? {};
    this.port.postMessage({ ...message, state: { adapters, warnings, serials: table?.serials } });
  }
}

function plainError(error) {
  const { message = String(error), code = 'error', expected, found, hint, items } = error ?? {};
  return { message, code, expected, found, hint, items };
}
