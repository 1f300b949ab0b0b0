/**
 * A model in a worker, with the same methods as Model: the page stays alive while it computes.
 */

import { LorakitError } from './errors.js';
import { eventsOf } from './events.js';
import { isHubId } from './opening.js';

const SCHEME = /^[a-z][a-z0-9+.-]*:/i;
const OWN = ['signal', 'progress', 'worker'];

/** @param {string} source @param {object} options as of `open` */
export async function openRemote(source, { worker = true, signal, progress, ...options }) {
  const own = worker === true;
  const port = own ? new Worker(new URL('./worker.js', import.meta.url), { type: 'module' }) : worker;
  const line = new Line(port, own);
  try {
    const facts = await line.ask('open', [isHubId(source) ? source : absolute(source), options], { signal, progress });
    return new RemoteModel(line, facts);
  } catch (error) {
    line.end();
    throw error;
  }
}

class RemoteModel {
  constructor(line, { device, dtype, facts, takesAdapters }) {
    this.line = line;
    this.device = device;
    this.dtype = dtype;
    this.facts = facts;
    this.takesAdapters = takesAdapters;
  }

  get adapters() {
    return this.line.state.adapters;
  }

  get warnings() {
    return this.line.state.warnings;
  }

  async load(config) {
    const plain = Object.prototype.toString.call(config) === '[object Object]';
    const { signal, progress, ...wanted } = plain ? config : { path: config };
    const text = typeof wanted.path === 'string' && wanted.source !== 'huggingface';
    const path = text ? absolute(wanted.path) : sendableFiles(wanted.path);
    const name = await this.line.ask('load', [{ ...wanted, path }], { signal, progress });
    return name && new RemoteAdapter(this, name);
  }

  async apply(what, scale) {
    await this.line.ask('apply', [nameOf(what), scale]);
  }

  async remove(adapter) {
    await this.line.ask('remove', [nameOf(adapter)]);
  }

  async unload(name) {
    await this.line.ask('unload', [name]);
  }

  async clear() {
    await this.line.ask('clear', []);
  }

  chat(messages, options = {}) {
    return this.line.ask('chat', [messages, sendable(options)], options);
  }

  complete(prompt, options = {}) {
    return this.line.ask('complete', [prompt, sendable(options)], options);
  }

  batch(requests, options = {}) {
    return this.line.ask('batch', [requests], options);
  }

  async *stream(messages, options = {}) {
    yield* eventsOf(options.signal, (signal, event) =>
      this.line.ask('stream', [messages, sendable(options)], { signal, event }),
    );
  }

  async close() {
    if (this.line.ended) return;
    await this.line.ask('close', []);
    this.line.end();
  }
}

class RemoteAdapter {
  constructor(model, name) {
    this.model = model;
    this.name = name;
  }

  get info() {
    return this.model.adapters.find(({ name }) => name === this.name);
  }

  apply(scale) {
    return this.model.apply(this.name, scale);
  }

  remove() {
    return this.model.remove(this.name);
  }

  unload() {
    return this.model.unload(this.name);
  }
}

/** Questions and answers over a port. */
class Line {
  constructor(port, own) {
    this.port = port;
    this.own = own;
    this.ended = false;
    this.count = 0;
    this.state = { adapters: [], warnings: [] };
    /** @type {Map<number, object>} */
    this.waiting = new Map();
    port.addEventListener('message', ({ data }) => this.receive(data));
    port.addEventListener('error', (event) => this.fail(event.message ?? 'it could not be loaded'));
    port.addEventListener('messageerror', () => this.fail('a message could not be read'));
    port.start?.();
  }

  ask(op, args, { signal, progress, event } = {}) {
    if (this.ended) return Promise.reject(closed());
    const id = (this.count += 1);
    return new Promise((resolve, reject) => {
      const abort = () => this.port.postMessage({ id, op: 'abort' });
      this.waiting.set(id, { resolve, reject, progress, event, free: () => signal?.removeEventListener('abort', abort) });
      this.port.postMessage({ id, op, args, tells: Boolean(progress) });
      if (signal?.aborted) abort();
      else signal?.addEventListener('abort', abort);
    });
  }

  receive({ id, type, value, error, event, state }) {
    const asked = this.waiting.get(id);
    this.state = state;
    if (!asked) return;
    if (type === 'progress') asked.progress?.(event);
    else if (type === 'event') asked.event?.(event);
    else {
      this.waiting.delete(id);
      asked.free();
      if (type === 'done') asked.resolve(value);
      else asked.reject(new LorakitError(error.message, error));
    }
  }

  /** The worker is lost: nobody waits for ever. */
  fail(reason) {
    this.end(new LorakitError(`the worker failed: ${reason}`, { code: 'engine_failed' }));
  }

  end(error = closed()) {
    this.ended = true;
    for (const { reject, free } of this.waiting.values()) {
      free();
      reject(error);
    }
    this.waiting.clear();
    if (this.own) this.port.terminate();
    else this.port.close?.();
  }
}

function closed() {
  return new LorakitError('the model is closed', { code: 'closed', hint: 'open it again' });
}

/** A worker has another address than the page. */
function absolute(path) {
  return SCHEME.test(path) || !globalThis.document ? path : new URL(path, document.baseURI).href;
}

function sendableFiles(path) {
  if (path instanceof URL) return path.href;
  return typeof FileList !== 'undefined' && path instanceof FileList ? [...path] : path;
}

function sendable(options) {
  return Object.fromEntries(Object.entries(options).filter(([name]) => !OWN.includes(name)));
}

function nameOf(what) {
  return what instanceof RemoteAdapter ? what.name : what;
}
