/**
 * What answers: a model in this page, or a server. Both have the same face, and neither knows
 * anything of the page.
 *
 * A choice says what acts on a request: { adapters: {name: scale} } here, { model } at a server.
 * @typedef {{adapters?: Record<string, number>, model?: string}} Choice
 * @typedef {{tools: object[] | null, maxTokens: number, temperature: number, signal: AbortSignal}} Options
 */

import { open } from './lib/lorakit.js';
import { Endpoint } from './endpoint.js';

/** @returns {Promise<LocalEngine>} */
export async function openLocal(source, { device, dtype, signal, progress }) {
  const began = performance.now();
  const model = await open(source, { device, ...(dtype ? { dtype } : {}), signal, progress });
  return new LocalEngine(model, (performance.now() - began) / 1000);
}

class LocalEngine {
  remote = false;

  constructor(model, seconds) {
    this.model = model;
    this.seconds = seconds;
  }

  get takesAdapters() {
    return this.model.takesAdapters;
  }

  /** Whether adapters are in its weights already. */
  get merged() {
    return this.model.facts.adapters === 'merged';
  }

  get device() {
    return this.model.device;
  }

  get dtype() {
    return this.model.dtype;
  }

  load(config) {
    return this.model.load(config);
  }

  unload(name) {
    return this.model.unload(name);
  }

  /** The last thing that was said about an adapter. */
  warning(name) {
    return this.model.warnings.findLast(({ adapter }) => adapter === name);
  }

  stream(messages, { adapters = {} }, { signal, ...options }) {
    return this.model.stream(messages, { adapters, signal, ...options });
  }

  /** The same messages under two choices, in one run. */
  async both(messages, choices, { signal, ...options }) {
    const began = performance.now();
    const requests = choices.map(({ adapters = {} }) => ({ messages, adapters, ...options }));
    const replies = await this.model.batch(requests, { signal });
    return { replies, seconds: (performance.now() - began) / 1000, together: true };
  }

  close() {
    return this.model.close();
  }
}

/** @returns {Promise<RemoteEngine>} */
export async function openRemote(url, key, signal) {
  const endpoint = new Endpoint(url, key);
  return new RemoteEngine(endpoint, await endpoint.models(signal));
}

class RemoteEngine {
  remote = true;
  takesAdapters = false;
  device = 'remote';
  dtype = null;

  constructor(endpoint, models) {
    this.endpoint = endpoint;
    this.models = models;
  }

  stream(messages, { model = this.models[0] }, options) {
    return this.endpoint.stream(messages, model, options);
  }

  async both(messages, choices, options) {
    const began = performance.now();
    const replies = await Promise.all(choices.map((choice) => lastReply(this.stream(messages, choice, options))));
    return { replies, seconds: (performance.now() - began) / 1000, together: false };
  }

  async close() {}
}

async function lastReply(events) {
  for await (const event of events) if (event.type === 'end') return event.reply;
  throw new Error('the answer did not end');
}
