// Scenarios on a model in Node: `node model.mjs WEB IN OUT`, IN = { scenario, export, adapters, ... }.
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const [, , web, given, out] = process.argv;
const input = JSON.parse(readFileSync(given, 'utf8'));
const transformers = await import(process.env.LORAKIT_TRANSFORMERS);
const { open } = await import(`${web}/lorakit.js`);
const { textOf } = await import(`${web}/events.js`);

const text = (content) => [{ role: 'user', content }];
const ids = (replies) => replies.map((reply) => reply.ids);

/** The files of an adapter's folder, as a picker gives them. */
function files(folder) {
  const read = (name) => {
    const data = readFileSync(join(folder, name));
    return data.buffer.slice(data.byteOffset, data.byteOffset + data.length);
  };
  return new Map(readdirSync(folder).map((name) => [name, read(name)]));
}

async function ready(options = {}) {
  const model = await open(input.export, { transformers, dtype: input.dtype, ...options });
  await loadAll(model);
  return model;
}

async function loadAll(model) {
  for (const [name, folder] of Object.entries(input.adapters)) await model.load({ path: files(folder), name });
}

const request = (row, adapters) => ({ tools: row.tools ?? undefined, adapters, maxTokens: 48 });
const rowOf = (row, adapters) => ({ messages: row.messages, ...request(row, adapters) });

/** The error's code, or 'none'. */
async function codeOf(task) {
  try {
    await task();
    return 'none';
  } catch (error) {
    return error.code ?? String(error);
  }
}

/** A reply, and whether its events, joined, are it; with those of its text alone. */
async function heard(events) {
  const told = { text: '', reasoning: '', calls: [] };
  const begun = [];
  const all = [];
  let reply = null;
  for await (const event of events) {
    const { type } = event;
    all.push(event);
    if (type === 'end') reply = event.reply;
    else if (type === 'callStart') begun[event.index] = { name: event.name, text: '' };
    else if (type === 'callArguments') begun[event.index].text += event.text;
    else if (type === 'callEnd') told.calls.push({ name: begun[event.index].name, arguments: JSON.parse(begun[event.index].text) });
    else if (type !== 'callWithdrawn') told[type] += event.text;
  }
  let words = '';
  for await (const event of textOf(all)) if (event.type === 'text') words += event.text;
  const { text, reasoning, calls } = reply;
  const same = JSON.stringify(told) === JSON.stringify({ text, reasoning, calls }) && words === text;
  return { ...reply, same, kinds: all.map(({ type }) => type) };
}

const scenarios = {
  /** Each row under each set: its reply, and whether its events are it. */
  async answers() {
    const model = await ready();
    const answers = [];
    for (const row of input.rows) {
      const found = {};
      for (const [name, adapters] of Object.entries(input.sets)) found[name] = await heard(model.events(row.messages, request(row, adapters)));
      answers.push(found);
    }
    return answers;
  },

  /** Rows of other lengths under other sets, in one run: ids. */
  async batches() {
    const model = await ready();
    const sets = Object.values(input.sets);
    const found = [];
    for (let i = 0; i + sets.length <= input.rows.length; i += sets.length)
      found.push(ids(await model.batch(sets.map((set, k) => rowOf(input.rows[i + k], set)))));
    return found;
  },

  /** Applied sets, three times round; then a change while a stream runs. */
  async swaps() {
    const model = await ready();
    const [row] = input.rows;
    const rounds = [];
    for (let round = 0; round < 3; round += 1)
      for (const [name, adapters] of Object.entries(input.sets)) {
        await model.apply(adapters);
        rounds.push([name, (await model.chat(row.messages, request(row, undefined))).ids]);
      }
    await model.apply({ home: 1 });
    let during = null;
    let changed = false;
    for await (const event of model.stream(row.messages, request(row, undefined))) {
      if (!changed) await model.apply({ shop: 1 });
      changed = true;
      if (event.type === 'end') during = event.reply.ids;
    }
    const after = (await model.chat(row.messages, request(row, undefined))).ids;
    return { rounds, during, after };
  },

  /** Requests that were made at once, an apply and an unload between them. */
  async queue() {
    const model = await ready();
    const [row] = input.rows;
    const order = [];
    const ask = (name, adapters) =>
      model.chat(row.messages, request(row, adapters)).then((reply) => (order.push(name), reply.ids));
    const asked = Object.entries(input.sets).map(([name, adapters]) => ask(name, adapters));
    await model.unload('shop');
    await model.apply({ home: 1 });
    const applied = ask('applied', undefined);
    return { answers: await Promise.all(asked), applied: await applied, order };
  },

  /** Cancelled at every point; the request after it is right each time. */
  async aborts() {
    const model = await ready();
    const [row] = input.rows;
    const right = async () => (await model.chat(row.messages, request(row, { home: 1 }))).ids;
    const expected = await right();
    const codes = {};
    const before = AbortSignal.abort();
    codes.before = await codeOf(() => model.chat(row.messages, { ...request(row), signal: before }));

    const middle = new AbortController();
    let events = 0;
    codes.middle = await codeOf(async () => {
      for await (const _ of model.stream(text('hello'), { maxTokens: 400, signal: middle.signal }))
        if ((events += 1) === 1) middle.abort();
    });
    const afterMiddle = await right();

    const waiting = new AbortController();
    const running = right();
    const second = codeOf(() => model.chat(row.messages, { ...request(row), signal: waiting.signal }));
    waiting.abort();
    codes.waiting = await second;
    const beside = await running;

    for await (const _ of model.stream(text('hello'), { maxTokens: 400 })) break;
    return { expected, codes, events, after: [afterMiddle, beside, await right()] };
  },

  /** A second turn goes on from the first one's KV, under the same adapters alone. */
  async turns() {
    const fresh = await ready();
    const model = await ready();
    const [row, other] = input.rows;
    const turn = (reply) => [...row.messages, { role: 'assistant', content: reply.raw }, ...other.messages];
    const found = [];
    const cases = [[{ home: 1 }, { home: 1 }], [{ home: 1 }, { shop: 1 }], [{ home: 1 }, { home: 0.5 }], [{}, { home: 1 }]];
    for (const [first, second] of cases) {
      const reply = await model.chat(row.messages, request(row, first));
      const options = request(row, second);
      const again = await model.chat(turn(reply), options);
      fresh.generator.kept.clear();
      const alone = await fresh.chat(turn(reply), options);
      found.push({ cached: again.usage.cachedTokens, again: again.ids, alone: alone.ids });
    }
    return found;
  },

  /** What is refused, by code. */
  async refusals() {
    const model = await ready();
    const home = files(input.adapters.home);
    const handle = await model.load({ path: home, name: 'second', scale: 0.5 });
    await handle.apply();
    const scale = handle.info.scale;
    await handle.unload();
    const again = await model.load({ path: home, name: 'second' });
    const hello = text('hello');
    const codes = {
      taken: await codeOf(() => model.load({ path: home, name: 'home' })),
      unknown: await codeOf(() => model.chat(hello, { adapters: { nobody: 1 } })),
      gone: await codeOf(() => handle.apply()),
      merge: await codeOf(() => model.load({ path: home, name: 'x', mode: 'merge' })),
      key: await codeOf(() => model.load({ path: home, colour: 'red' })),
      mode: await codeOf(() => model.load({ path: home, mode: 'fast' })),
      scale: await codeOf(() => model.apply({ home: Number.NaN })),
      scaleType: await codeOf(() => model.apply({ home: '1' })),
      sampling: await codeOf(() => model.chat(hello, { temperature: -1, topP: 0 })),
      messages: await codeOf(() => model.chat([{ role: 'user' }])),
      tools: await codeOf(() => model.chat(hello, { tools: [{}] })),
      beyond: await codeOf(() => model.complete([3, 1024])),
      empty: await codeOf(() => model.complete([])),
      long: await codeOf(() => model.complete(Array(5000).fill(3))),
      rows: await codeOf(() => model.batch(Array(17).fill({ messages: hello }))),
      device: await codeOf(() => open(input.export, { transformers, dtype: 'q3' })),
      missing: await codeOf(() => open(`${input.export}-nowhere`, { transformers })),
    };
    const info = model.adapters.map(({ name, rank, digest, bytes }) => [name, rank, digest.length, bytes > 0]);
    const fallen = await model.load({ path: new Map([['adapter_config.json', new ArrayBuffer(3)]]), name: 'bad', onError: 'base' });
    const merged = await model.load({ path: home, name: 'bad', mode: 'merge', onError: 'base' });
    const waiting = codeOf(() => model.chat(hello, { maxTokens: 2 }));
    await model.close();
    codes.closedWaiting = await waiting;
    codes.closed = await codeOf(() => model.chat(hello));
    await model.close();
    return { codes, scale, info, fallen: [fallen, merged], warnings: model.warnings.map(({ code, adapter }) => [code, adapter]), again: again.name };
  },

  /** A model without inputs for adapters: the base, and what an adapter on it says. */
  async plain() {
    const model = await open(input.export, { transformers, dtype: input.dtype });
    const replies = [];
    for (const row of input.rows) replies.push((await model.chat(row.messages, request(row, undefined))).ids);
    const together = ids(await model.batch(input.rows.map((row) => rowOf(row, undefined))));
    const home = { path: files(input.adapters.home), name: 'home' };
    const refused = await model.load(home).catch(({ code, hint }) => ({ code, hint }));
    await model.load({ ...home, onError: 'base' });
    return { replies, together, refused, warnings: model.warnings, takes: model.takesAdapters };
  },

  /** Adapters in the graph itself: one of them at a time. */
  async composed() {
    const model = await open(input.export, { transformers, dtype: input.dtype });
    const sets = { base: {}, home: { home: 1 }, shop: ['shop'] };
    const answers = [];
    for (const row of input.rows) {
      const found = {};
      for (const [name, set] of Object.entries(sets)) found[name] = (await model.chat(row.messages, request(row, set))).ids;
      answers.push(found);
    }
    const [row] = input.rows;
    const batch = ids(await model.batch(Object.values(sets).map((set) => rowOf(row, set))));
    const codes = {
      scaled: await codeOf(() => model.chat(row.messages, request(row, { home: 0.5 }))),
      mixed: await codeOf(() => model.chat(row.messages, request(row, ['home', 'shop']))),
      loaded: await codeOf(() => model.load({ path: files(input.adapters.style), name: 'style' })),
    };
    return { answers, batch, codes, adapters: model.adapters.map(({ name }) => name) };
  },

  /** The same through messages, as a worker does it. */
  async remote() {
    const { serve } = await import(`${web}/serve.js`);
    const { port1, port2 } = new MessageChannel();
    serve(port1, { transformers });
    const events = [];
    const model = await open(input.export, { worker: port2, dtype: input.dtype, progress: (event) => events.push(event) });
    await loadAll(model);
    const [row] = input.rows;
    const answers = {};
    for (const [name, adapters] of Object.entries(input.sets)) {
      const { ids: told, same } = await heard(model.events(row.messages, request(row, adapters)));
      answers[name] = { ids: told, same };
    }
    const home = await model.load({ path: files(input.adapters.home), name: 'again' });
    const pending = home.apply(0.5);
    const unloaded = home.unload();
    await Promise.all([pending, unloaded]);
    await model.apply({ home: 1 });
    const applied = (await model.chat(row.messages, request(row, undefined))).ids;
    const batch = ids(await model.batch(Object.values(input.sets).map((set) => rowOf(row, set))));
    const leave = new AbortController();
    const codes = {
      unknown: await codeOf(() => model.apply({ nobody: 1 })),
      abort: await codeOf(async () => {
        for await (const _ of model.stream(text('hello'), { maxTokens: 400, signal: leave.signal })) leave.abort();
      }),
      merge: await codeOf(() => model.load({ path: new Map(), mode: 'merge', name: 'm' })),
    };
    await model.load({ path: new Map(), mode: 'merge', name: 'm', onError: 'base' });
    const state = { adapters: model.adapters.map(({ name, scale }) => [name, scale]), warnings: model.warnings.map(({ code }) => code) };
    await model.close();
    codes.closed = await codeOf(() => model.chat(text('hello')));
    return { answers, applied, batch, codes, state, progress: events.length };
  },

  /** Token ids of conversations; and a tokenizer that begins each text with a space. */
  async prompts() {
    const model = await ready();
    const found = input.conversations.map((messages) => model.dialogue.prompt(messages, null));
    const { Spelled } = await import(`${web}/spelled.js`);
    const spaced = new Spelled(['<end>']);
    const prompt = spaced.render([{ role: 'tool', content: 'a<end>' }], ([{ content }]) => `${content}<end>`);
    const coded = (text) => [32, ...Array.from(text, (char) => char.codePointAt(0))];
    const refused = await codeOf(() => spaced.encode(prompt, coded, (ids) => String.fromCodePoint(...ids)));
    const rewritten = await codeOf(() => new Spelled(['<end>']).render([{ role: 'tool', content: 'a<end>' }], ([{ content }]) => `${content.codePointAt(2)}`));
    return { found, refused, rewritten };
  },

  /** What requests may say of calls: the reply, or the code of what is refused. */
  async choices() {
    const model = await ready();
    const found = [];
    for (const { row, options } of input.asked) {
      const { messages, tools } = input.rows[row];
      const given = { tools, adapters: { home: 1 }, maxTokens: 48, ...options };
      found.push(await model.chat(messages, given).catch(({ code, message, hint }) => ({ code, message, hint })));
    }
    return found;
  },

  /** Ids drawn with seeds, and an answer cut at a text. */
  async sampled() {
    const model = await ready();
    const replies = [];
    for (const { sampling, row } of input.draws) {
      const options = { ...request(input.rows[row], { home: 1 }), ...sampling };
      replies.push((await model.chat(input.rows[row].messages, options)).ids);
    }
    const cut = await model.chat(input.rows[0].messages, { ...request(input.rows[0], { home: 1 }), stop: input.stop });
    return { replies, cut: { raw: cut.raw, finish: cut.finishReason } };
  },
};

const result = await scenarios[input.scenario]();
writeFileSync(out, JSON.stringify(result));
process.exit(0);
