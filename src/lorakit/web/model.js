/**
 * Model: a base in the page, and adapters that come and go while it runs.
 */

import { AdapterTable, LoadedAdapter, checkedConfig } from './adapters.js';
import { Answer } from './answer.js';
import { written } from './cache.js';
import { Dialogue, prepareTools } from './chat.js';
import { LorakitError } from './errors.js';
import { eventsOf, textOf } from './events.js';
import { BuiltIn, LoraInputs } from './feeds.js';
import { Generator } from './generate.js';
import { loadAdapter } from './loading.js';
import { fetchModel, transformersOf } from './opening.js';
import { ANY, SIGNAL, checkedOptions, shown, wrong } from './options.js';
import { inTurn, throwIfAborted } from './queue.js';
import { DEFAULTS, samplingOf } from './sampling.js';
import { Session } from './session.js';
import { toolUse } from './tool_choice.js';

const EXPORT = 'lorakit export BASE --to onnx --adapters dynamic -o OUT';
const MERGE = 'lorakit export BASE -a ADAPTER --to onnx -o OUT';
const MAX_ROWS = 16; // of one batch
const CALLS = { tools: ANY, toolChoice: ANY, parallelToolCalls: ANY, responseFormat: ANY, repair: ANY };
const ROW = { ...CALLS, adapters: ANY, ...Object.fromEntries(Object.keys(DEFAULTS).map((name) => [name, ANY])) };
const REQUEST = { ...ROW, signal: SIGNAL };
const BATCHED = { messages: ANY, prompt: ANY, ...ROW };

/**
 * Open a model: an export of `lorakit export`, or any decoder for transformers.js (as a base alone).
 * @param {string} source a path or an address of a folder, or hf:org/repo[@revision]
 * @param {object} [options] see lorakit.d.ts
 * @returns {Promise<Model>}
 */
export async function openModel(source, options = {}) {
  const { device = 'wasm', signal } = options;
  throwIfAborted(signal);
  const transformers = await transformersOf(options.transformers, device);
  if (options.threads) transformers.env.backends.onnx.wasm.numThreads = options.threads;
  const fetched = await fetchModel(transformers, source, { ...options, device });
  try {
    return new Model(fetched, { transformers, device });
  } catch (error) {
    await fetched.model.dispose();
    throw error;
  }
}

export class Model {
  /** Made by `open`. */
  constructor({ model, tokenizer }, { transformers, device }) {
    const facts = model.config['transformers.js_config']?.lorakit ?? {};
    const gpu = device === 'webgpu';
    this.model = model;
    this.device = device;
    this.dtype = model.sessions.model.config?.dtype ?? null;
    this.facts = facts;
    this.session = new Session(model.sessions.model, { Tensor: transformers.Tensor, own: 'adapters' in facts, gpu });
    const builtIn = this.session.inputs.has('adapter');
    this.lora = builtIn ? new BuiltIn(this.session) : new LoraInputs(this.session);
    this.generator = new Generator(this.session, this.lora, contextOf(model.config, facts));
    this.dialogue = new Dialogue(tokenizer, { toolFormat: facts.tool_format, eos: eosOf(model) });
    this.table = new AdapterTable();
    if (builtIn) (facts.names ?? []).forEach((name, i) => this.table.add(name, builtInAdapter(name, i + 1)));
    /** @type {{code: string, message: string, adapter: string}[]} */
    this.warnings = [];
    this.vocabulary = model.config.vocab_size ?? Infinity;
    this.closed = false;
  }

  /** What is loaded, and at what scale it acts. */
  get adapters() {
    return this.table.info();
  }

  /** Whether adapters can be loaded: the model was exported with inputs for them. */
  get takesAdapters() {
    return this.session.modules.length > 0;
  }

  /**
   * Load an adapter: PEFT, MLX or `lorakit convert --to web`; it acts once it is applied.
   * @param {string | object} config a path, or { path, source, mode, scale, onError, digest, name }
   * @returns {Promise<LoadedAdapter | null>} null where it failed and onError is 'base'; the failure
   *   is in `warnings`
   */
  async load(config) {
    this.requireOpen();
    const { name, ...wanted } = checkedConfig(config);
    try {
      return await this.loadNow(name, wanted);
    } catch (error) {
      if (wanted.onError !== 'base' || error.code === 'cancelled') throw error;
      this.warn(error.code ?? 'error', `${name} is not applied, the base goes on: ${error.message}`, name);
      return null;
    }
  }

  async loadNow(name, config) {
    this.refuseWhatInputsCannot(config);
    this.table.refuseTaken(name);
    const { path, signal } = config;
    if (path instanceof Map && config.digest) throw wrong('a digest is checked where files are fetched; these are in memory');
    const { adapter, kept } = await loadAdapter(config, { modules: this.session.modules, name });
    throwIfAborted(signal);
    this.requireOpen();
    this.table.add(name, { ...adapter, usual: config.scale ?? 1 });
    this.warnAll(adapter.warnings, name);
    kept.then((warnings) => this.warnAll(warnings, name));
    this.compareBase(adapter, name);
    return new LoadedAdapter(this, name, this.table.serials.get(name));
  }

  /**
   * Set which adapters act: exactly those of an object, or one more by its handle or name. The
   * scale is the one it was loaded with, unless it is said.
   */
  async apply(what, scale) {
    this.requireOpen();
    if (typeof what === 'string' || what instanceof LoadedAdapter) {
      const name = this.nameOf(what);
      this.table.rescale(name, scale ?? this.table.get(name).usual);
    } else if (scale !== undefined) throw wrong('a scale is for one adapter: give several with theirs, { home: 0.5 }');
    else this.table.activate(what);
  }

  /** Take an adapter out of those that act; it stays loaded. */
  async remove(adapter) {
    this.requireOpen();
    this.table.remove(this.nameOf(adapter));
  }

  /** Free an adapter. Requests that were made with it keep it to their end. */
  async unload(adapter) {
    this.requireOpen();
    this.lora.drop(this.table.unload(this.nameOf(adapter)));
  }

  /** The name of an adapter that is given by it, or by its handle. */
  nameOf(what) {
    if (typeof what === 'string') return what;
    if (!(what instanceof LoadedAdapter)) throw wrong(`an adapter is given by its name or what load gave, found ${shown(what)}`);
    if (what.model !== this) throw wrong(`'${what.name}' was loaded into another model`);
    return what.current();
  }

  /** No adapter acts: the base alone. */
  async clear() {
    this.requireOpen();
    this.table.activate({});
  }

  /** Answer a conversation. @returns {Promise<object>} a reply, see lorakit.d.ts */
  async chat(messages, options) {
    const { signal, ...rest } = checkedOptions(options, REQUEST, 'the options of a request');
    return (await this.runRequests([this.request({ messages, ...rest })], signal))[0];
  }

  /** Continue a text or token ids, without a chat template. */
  async complete(prompt, options) {
    const { signal, ...rest } = checkedOptions(options, REQUEST, 'the options of a request');
    return (await this.runRequests([this.request({ prompt, ...rest })], signal))[0];
  }

  /** Several requests in one run, each with its own adapters and sampling. */
  async batch(requests, options) {
    const { signal } = checkedOptions(options, { signal: SIGNAL }, 'the options of a batch');
    if (!Array.isArray(requests) || !requests.length) throw wrong(`a batch is a list of requests, found ${shown(requests)}`);
    if (requests.length > MAX_ROWS) throw wrong(`a batch holds at most ${MAX_ROWS} requests, found ${requests.length}`);
    const rows = Array.from(requests, (request, i) => checkedOptions(request ?? null, BATCHED, `requests[${i}]`));
    const odd = rows.findIndex((row) => 'messages' in row === 'prompt' in row);
    if (odd >= 0) throw wrong(`requests[${odd}] must have messages or a prompt, one of the two`);
    return this.runRequests(rows.map((row) => this.request(row)), signal);
  }

  /**
   * A conversation's answer as it comes: { type: 'text', text } ..., { type: 'end', reply }.
   * Leaving the loop ends the generation.
   */
  async *stream(messages, options) {
    yield* textOf(this.events(messages, options));
  }

  /** The same with every part of it as soon as it is certain: reasoning and calls too; see lorakit.d.ts. */
  async *events(messages, options) {
    const { signal: given, ...rest } = checkedOptions(options, REQUEST, 'the options of a request');
    yield* eventsOf(given, async (signal, emit) => {
      const request = this.request({ messages, ...rest }, emit);
      const [reply] = await this.runRequests([request], signal);
      return { type: 'end', reply };
    });
  }

  /** Free the model, after what runs has ended. What waits is told that it is closed. */
  async close() {
    if (this.closed) return;
    this.closed = true;
    await inTurn(async () => {
      this.generator.kept.clear();
      await this.model.dispose();
    });
    await written(); // a worker may end now
  }

  /** A request as rows know it; its adapters are those of now. */
  request(given, emit = () => {}) {
    const { messages, prompt, tools, adapters, toolChoice, parallelToolCalls, responseFormat, repair, ...options } = given;
    this.requireOpen();
    const sampling = samplingOf(options);
    const offered = prepareTools(tools);
    const use = toolUse(offered?.map((tool) => tool.function) ?? null, { toolChoice, parallelToolCalls, responseFormat, repair });
    const ids = 'messages' in given ? this.dialogue.prompt(messages, offered) : this.promptIds(prompt, tools);
    const answer = new Answer(this.dialogue, { stop: sampling.stop, format: this.dialogue.formatOf(offered), use });
    const onToken = (id) => {
      answer.push(id).forEach(emit);
      return answer.stopped;
    };
    const allows = (id) => answer.allows(id);
    return { ids, adapters: this.adapterSet(adapters), stops: this.dialogue.stops, sampling, onToken, allows, answer, emit };
  }

  /** Adapters and scales, refused now if they cannot act together. */
  adapterSet(scales) {
    const set = this.table.resolve(scales);
    this.lora.keyOf(set);
    return set;
  }

  promptIds(prompt, tools) {
    if (tools !== undefined) throw wrong('tools are for messages: a prompt is continued as it stands');
    if (typeof prompt === 'string') return this.dialogue.encode(prompt);
    const known = (id) => Number.isSafeInteger(id) && id >= 0 && id < this.vocabulary;
    if (Array.isArray(prompt) && Array.from(prompt).every(known)) return prompt;
    throw wrong('a prompt is text, or token ids of the vocabulary');
  }

  async runRequests(requests, signal) {
    const began = performance.now();
    const results = await inTurn(() => {
      this.requireOpen();
      return this.generator.run(requests, signal);
    }, signal);
    const seconds = (performance.now() - began) / 1000;
    return results.map((result, i) => this.reply(requests[i], result, seconds));
  }

  reply({ ids: prompt, answer, emit }, { ids, finishReason, cachedTokens }, seconds) {
    const { parsed, events } = answer.end();
    events.forEach(emit);
    const usage = { promptTokens: prompt.length, cachedTokens, completionTokens: ids.length, seconds };
    return { ...parsed, raw: answer.text, ids, finishReason, usage };
  }

  refuseWhatInputsCannot({ mode = 'dynamic' }) {
    if (mode === 'merge')
      throw new LorakitError('a page cannot merge an adapter into its base', {
        code: 'capability_missing',
        hint: `merge it when exporting: ${MERGE}`,
      });
    if (!this.takesAdapters)
      throw new LorakitError('this model has no inputs for adapters', {
        code: 'capability_missing',
        expected: 'a model exported with --adapters dynamic',
        found: this.facts.adapters ?? 'a model that lorakit did not export',
        hint: `export one with: ${EXPORT}`,
      });
  }

  /** Names differ for honest reasons, and weights in another dtype too: a warning, as in Python. */
  compareBase(adapter, name) {
    const { base } = this.facts;
    if (!adapter.base || !base || adapter.base === base) return;
    const said = `expected ${adapter.base.slice(0, 16)}, found ${base.slice(0, 16)}`;
    this.warn('adapter_mismatch', `${name} was made for another base (${said}): other weights, or the same in another dtype`, name);
  }

  warnAll(warnings, adapter) {
    for (const { code, message } of warnings) this.warn(code, message, adapter);
  }

  warn(code, message, adapter) {
    this.warnings.push({ code, message, adapter });
  }

  requireOpen() {
    if (this.closed) throw new LorakitError('the model is closed', { code: 'closed', hint: 'open it again' });
  }
}

function builtInAdapter(name, place) {
  return { name, place, rank: 0, digest: '', bytes: 0, usual: 1 };
}

function contextOf(config, facts) {
  return facts.context ?? config.max_position_embeddings ?? config.text_config?.max_position_embeddings ?? 2048;
}

function eosOf(model) {
  const found = model.generation_config?.eos_token_id ?? model.config.eos_token_id ?? [];
  return [found].flat().filter((id) => typeof id === 'number');
}
