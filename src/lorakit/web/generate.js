/**
 * The loop: prompts to tokens, several rows at once, each with its own adapters.
 *
 * transformers.js pads on the left, which GroupQueryAttention cannot take, so rows are padded on
 * the right here. KV stays where the runtime left it (on the GPU, if it is there) and lives no
 * longer than its request, but for one row's, which a request with the same adapters and the same
 * beginning may go on from (KeptKv).
 */

import { LorakitError } from './errors.js';
import { breathe, throwIfAborted } from './queue.js';
import { Sampler } from './sampling.js';

/**
 * stops: token ids that end a row. onToken: told each token; true ends the row. allows: whether a
 * token may come next; another one is chosen otherwise.
 * @typedef {{ids: number[], adapters: import('./feeds.js').AdapterSet, stops: Set<number>,
 *   sampling: import('./sampling.js').Sampling, onToken?: (id: number) => boolean | void,
 *   allows?: (id: number) => boolean}} Row
 * @typedef {{ids: number[], finishReason: 'stop' | 'length', cachedTokens: number}} Generated
 */

export class Generator {
  /**
   * @param {import('./session.js').Session} session @param {import('./feeds.js').LoraInputs} lora
   * @param {number} context positions that the model has
   */
  constructor(session, lora, context) {
    this.session = session;
    this.lora = lora;
    this.context = context;
    this.kept = new KeptKv(session);
  }

  /**
   * Rows to their ends; the caller has made sure that nothing else runs.
   * @param {Row[]} rows @param {AbortSignal} [signal] @returns {Promise<Generated[]>}
   */
  async run(rows, signal) {
    for (const { ids } of rows) checkPrompt(ids, this.context);
    if (rows.length === 1 || this.runsTogether(rows)) return this.together(rows, signal);
    const done = [];
    for (const row of rows) done.push(...(await this.together([row], signal)));
    return done;
  }

  /** Rows of different lengths need a graph that reads lengths from the mask: lorakit's own. */
  runsTogether(rows) {
    return this.session.own && rows.every(({ ids }) => ids.length > 1);
  }

  async together(rows, signal) {
    const states = rows.map((row) => new RowState(row, this.context));
    const lora = this.lora.feeds(rows.map(({ adapters }) => adapters));
    const run = new Run(this.session, states, lora);
    const key = rows.length === 1 ? this.lora.keyOf(rows[0].adapters) : null;
    try {
      if (key !== null) run.goOn(this.kept.take(key, rows[0].ids));
      let logits = await run.prefill();
      for (;;) {
        throwIfAborted(signal);
        states.forEach((state, row) => state.choose(logits(row)));
        if (states.every(({ done }) => done)) break;
        await breathe();
        throwIfAborted(signal);
        logits = await run.step();
      }
      if (key !== null) this.kept.put(key, run.written(0), run.surrender());
    } finally {
      run.release();
    }
    return states.map((state) => state.result());
  }
}

/** The KV of one run and how far its rows are. */
class Run {
  constructor(session, states, lora) {
    this.session = session;
    this.states = states;
    this.lora = lora;
    this.past = session.emptyPast(states.length);
    this.room = 0; // positions of the KV
  }

  /** Begin with KV of the first tokens of the only row. */
  goOn(found) {
    if (!found) return;
    [this.past, this.room] = [found.past, found.room];
    this.states[0].length = found.count;
    this.states[0].cached = found.count;
  }

  /**
   * Rows of different lengths: all but each row's last token first, so that the logits of a batch
   * are of one position, not of its whole prompts; then that token.
   */
  async prefill() {
    const rest = this.states.map((state) => state.prompt.slice(state.length));
    const alike = rest.every(({ length }) => length === rest[0].length);
    if (alike) return this.forward(rest, rest.map(({ length }) => length));
    const longest = Math.max(...rest.map(({ length }) => length)) - 1;
    const padded = rest.map((ids) => [...ids.slice(0, -1), ...Array(longest - ids.length + 1).fill(0)]);
    await this.forward(padded, rest.map(({ length }) => length - 1));
    return this.forward(rest.map((ids) => ids.slice(-1)), rest.map(() => 1));
  }

  /** Each row's last token. A row that is done repeats its own, in the same place. */
  step() {
    const added = this.states.map(({ done }) => (done ? 0 : 1));
    return this.forward(this.states.map(({ last }) => [last]), added);
  }

  async forward(tokens, added) {
    this.states.forEach((state, row) => (state.length += added[row]));
    const lengths = this.states.map(({ length }) => length);
    const width = Math.max(this.room, ...lengths);
    const { session, lora, past } = this;
    const done = await session.run({ tokens, lengths, width, past, keep: 1, lora });
    session.release(past);
    [this.past, this.room] = [done.past, width];
    return (row) => done.logits.subarray(row * done.vocabulary, (row + 1) * done.vocabulary);
  }

  /** The tokens whose KV a row has. */
  written(row) {
    const { prompt, ids, length } = this.states[row];
    return [...prompt, ...ids].slice(0, length);
  }

  /** Give the KV away. */
  surrender() {
    const { past, room } = this;
    this.past = {};
    return { past, room };
  }

  release() {
    this.session.release(this.past);
  }
}

/** One row: its tokens so far, and whether it is done. */
class RowState {
  constructor({ ids, stops, sampling, onToken = () => false, allows = () => true }, context) {
    this.prompt = ids;
    this.stops = stops;
    this.sampler = new Sampler(sampling);
    this.limit = Math.min(sampling.maxTokens, context - ids.length);
    this.onToken = onToken;
    this.allows = allows;
    this.ids = [];
    this.length = 0; // tokens whose KV is there
    this.cached = 0;
    this.finishReason = this.limit > 0 ? null : 'length';
  }

  get done() {
    return this.finishReason !== null;
  }

  get last() {
    return this.ids.length ? this.ids.at(-1) : this.prompt.at(-1);
  }

  choose(logits) {
    if (this.done) return;
    let token = this.sampler.choose(logits);
    while (!this.allows(token)) {
      logits[token] = -Infinity;
      token = this.sampler.choose(logits);
    }
    this.ids.push(token);
    const ended = this.stops.has(token);
    if (ended || this.onToken(token)) this.finishReason = 'stop';
    else if (this.ids.length >= this.limit) this.finishReason = 'length';
  }

  result() {
    return { ids: this.ids, finishReason: this.finishReason, cachedTokens: this.cached };
  }
}

/** The KV of the last request of one row: used again only under the very same adapters and scales. */
class KeptKv {
  constructor(session) {
    this.session = session;
    this.entry = null;
  }

  /** KV of the first tokens of a prompt, all but its last at most; the entry is gone then. */
  take(key, ids) {
    const { entry } = this;
    this.entry = null;
    if (!entry) return null;
    const count = entry.key === key ? shared(entry.ids, ids.slice(0, -1)) : 0;
    // A longer KV than is wanted is right only where lengths come from the mask.
    if (count && (count === entry.room || (this.session.own && !this.session.gpu))) return { ...entry, count };
    this.session.release(entry.past);
    return null;
  }

  put(key, ids, { past, room }) {
    this.entry = { key, ids, past, room };
  }

  clear() {
    if (this.entry) this.session.release(this.entry.past);
    this.entry = null;
  }
}

/** How many tokens two sequences begin with alike. */
function shared(x, y) {
  let count = 0;
  while (count < x.length && count < y.length && x[count] === y[count]) count += 1;
  return count;
}

function checkPrompt(ids, context) {
  if (!ids.length) throw new LorakitError('the prompt holds no tokens', { code: 'parameter_invalid' });
  if (ids.length < context) return;
  throw new LorakitError(`the prompt has ${ids.length} tokens; the context holds ${context}`, {
    code: 'context_full',
    hint: 'at least one position is for the answer: shorten the prompt',
  });
}
