/**
 * A model in a worker, with the same methods as Model: the page stays alive while it computes.
 */

import { asScales, checkedConfig } from './adapters.js';
import { LorakitError } from './errors.js';
import { eventsOf, textOf } from './events.js';
import { isHubId } from './opening.js';
import { SIGNAL, checkedOptions, isPlain, shown, wrong } from './options.js';

const SCHEME = /^[a-z][a-z0-9+.-]*:/i;

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
    const { signal, progress, ...wanted } = checkedConfig(config);
    const text = typeof wanted.path === 'string' && wanted.source !== 'huggingface';
    const path = text ? absolute(wanted.path) : sendableFiles(wanted.path);
    const found = await this.line.ask('load', [{ ...wanted, path }], { signal, progress });
    return found && new RemoteAdapter(this, ...found);
  }

  async apply(what, scale) {
    const one = typeof what === 'string' || what instanceof RemoteAdapter;
    await this.line.ask('apply', [one ? this.named(what) : asScales(what), scale]);
  }

  async remove(adapter) {
    await this.line.ask('remove', [this.named(adapter)]);
  }

  async unload(adapter) {
    await this.line.ask('unload', [this.named(adapter)]);
  }

  async clear() {
    await this.line.ask('clear', []);
  }

  async chat(messages, options) {
    const [sent, signal] = apart(options);
    return this.line.ask('chat', [messages, sent], { signal });
  }

  async complete(prompt, options) {
    const [sent, signal] = apart(options);
    return this.line.ask('complete', [prompt, sent], { signal });
  }

  async batch(requests, options) {
    const { signal } = checkedOptions(options, { signal: SIGNAL }, 'the options of a batch');
    const rows = Array.isArray(requests) ? Array.from(requests, (request) => (isPlain(request) ? apart(request)[0] : request)) : requests;
    return this.line.ask('batch', [rows], { signal });
  }

  async *stream(messages, options) {
    yield* textOf(this.events(messages, options));
  }

  async *events(messages, options) {
    const [sent, given] = apart(options);
    yield* eventsOf(given, (signal, event) => this.line.ask('events', [messages, sent], { signal, event }));
  }

  /** A handle as a message has it; anything else as it is. */
  named(what) {
    if (!(what instanceof RemoteAdapter)) return what;
    if (what.model !== this) throw wrong(`'${what.name}' was loaded into another model`);
    const { name, serial } = what;
    return { handle: { name, serial } };
  }

  async close() {
    if (this.line.ended) return;
    await this.line.ask('close', []);
    this.line.end();
  }
}

class RemoteAdapter {
  constructor(model, name, serial) {
    this.model = model;
    this.name = name;
    this.serial = serial;
  }

  get info() {
    const { adapters, serials } = this.model.line.state;
    if (serials.get(this.name) === this.serial) return adapters.find(({ name }) => name === this.name);
    throw new LorakitError(`this adapter '${this.name}' was unloaded`, { code: 'adapter_unknown' });
  }

  apply(scale) {
    return this.model.apply(this, scale);
  }

  remove() {
    return this.model.remove(this);
  }

  unload() {
    return this.model.unload(this);
  }
}

/** Questions and answers over a port. */
class Line {
  constructor(port, own) {
    this.port = port;
    this.own = own;
    this.ended = false;
    this.count = 0;
    this.state = { adapters: [], warnings: [], serials: new Map() };
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
      this.send({ id, op, args, tells: Boolean(progress) });
      this.waiting.set(id, { resolve, reject, progress, event, free: () => signal?.removeEventListener('abort', abort) });
      if (signal?.aborted) abort();
      else signal?.addEventListener('abort', abort);
    });
  }

  /** Throws parameter_invalid for what no message can carry: a function, a class of the page's. */
  send(message) {
    try {
      this.port.postMessage(message);
    } catch (error) {
      throw wrong(`this cannot be sent to the model's worker: ${error.message}`);
    }
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
  const relative = globalThis.document && !SCHEME.test(path) && URL.canParse(path, document.baseURI);
  return relative ? new URL(path, document.baseURI).href : path;
}

function sendableFiles(path) {
  if (path instanceof URL) return path.href;
  return typeof FileList !== 'undefined' && path instanceof FileList ? [...path] : path;
}

/** Options without their signal, which no message can carry; and the signal. */
function apart(options) {
  if (options !== undefined && !isPlain(options)) throw wrong(`the options of a request are an object, found ${shown(options)}`);
  const { signal, ...sent } = options ?? {};
  if (sent.adapters) sent.adapters = asScales(sent.adapters); // a message would make any object a plain one
  return [sent, checkedOptions({ signal }, { signal: SIGNAL }, 'the options of a request').signal];
}
