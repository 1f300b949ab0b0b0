// Every public function with odd values in each place, of a model here and of one behind a port.
import { writeFileSync, readFileSync } from 'node:fs';

const [, , web, given, out] = process.argv;
const input = JSON.parse(readFileSync(given, 'utf8'));
const transformers = await import(process.env.LORAKIT_TRANSFORMERS);
const lorakit = await import(`${web}/lorakit.js`);
const { serve } = await import(`${web}/serve.js`);
const { open, LorakitError } = lorakit;

class Odd {}
const ODD = {
  undefined: undefined, null: null, NaN: NaN, number: 5, minus: -1, bigint: 3n, empty: '', text: 'nobody', true: true, symbol: Symbol('x'),
  list: [], 'list of null': [null], hole: [,], object: {}, bare: Object.create(null), unknown: { colour: 'red' }, function: () => 1,
  map: new Map(), 'odd map': new Map([[1, 2]]), date: new Date(0), class: new Odd(), url: new URL('http://x.invalid/a'), signal: { signal: 5 }, scales: { home: NaN },
}; // prettier-ignore
const USER = [{ role: 'user', content: 'hello' }];

/** 'ok', the code of a LorakitError, or what else was thrown. */
async function outcome(task) {
  try {
    await task();
    return 'ok';
  } catch (error) {
    const known = error instanceof LorakitError && typeof error.code === 'string' && error.message;
    return known ? error.code : `RAW ${error?.stack ?? String(error)}`;
  }
}

async function drained(events) {
  for await (const _ of events);
}

function calls(model, handle) {
  const few = (options) => ([Object.prototype, null].includes(Object.getPrototypeOf(options ?? '')) ? { maxTokens: 1, ...options } : options);
  return {
    'load(x)': (x) => model.load(x),
    'load name': (x) => model.load({ path: '/nowhere', name: x }),
    'load path': (x) => model.load({ path: x, cache: false }),
    'load digest': (x) => model.load({ path: '/nowhere', digest: x }),
    'load scale': (x) => model.load({ path: '/nowhere', scale: x }),
    'load endpoint': (x) => model.load({ path: 'hf:a/b', endpoint: x ?? 'nobody', cache: false }),
    'load signal': (x) => model.load({ path: '/nowhere', signal: x }),
    'apply(x)': (x) => model.apply(x),
    'apply(home, x)': (x) => model.apply('home', x),
    'apply(names, x)': (x) => model.apply(['home'], x),
    'remove(x)': (x) => model.remove(x),
    'unload(x)': (x) => model.unload(x),
    'chat(x)': (x) => model.chat(x, { maxTokens: 1 }),
    'chat message': (x) => model.chat([x], { maxTokens: 1 }),
    'chat role': (x) => model.chat([{ role: x, content: 'a' }], { maxTokens: 1 }),
    'chat(M, x)': (x) => model.chat(USER, few(x)),
    'chat tools': (x) => model.chat(USER, { maxTokens: 1, tools: x }),
    'chat adapters': (x) => model.chat(USER, { maxTokens: 1, adapters: x }),
    'chat maxTokens': (x) => model.chat(USER, { maxTokens: x === undefined ? 1 : x }),
    'chat toolChoice': (x) => model.chat(USER, { maxTokens: 1, toolChoice: x }),
    'chat responseFormat': (x) => model.chat(USER, { maxTokens: 1, responseFormat: x }),
    'chat repair': (x) => model.chat(USER, { maxTokens: 1, repair: x }),
    'chat stop': (x) => model.chat(USER, { maxTokens: 1, stop: x }),
    'complete(x)': (x) => model.complete(x, { maxTokens: 1 }),
    'complete(p, x)': (x) => model.complete('a', few(x)),
    'stream(x)': (x) => drained(model.stream(x, { maxTokens: 1 })),
    'stream(M, x)': (x) => drained(model.stream(USER, few(x))),
    'events(M, x)': (x) => drained(model.events(USER, few(x))),
    'batch(x)': (x) => model.batch(x),
    'batch row': (x) => model.batch([x]),
    'batch(R, x)': (x) => model.batch([{ prompt: 'a', maxTokens: 1 }], x),
    'handle.apply(x)': (x) => handle.apply(x),
  };
}

const ALONE = {
  'open(x)': (x) => open(x === 'nobody' ? '/nowhere' : x, { transformers }),
  'open(s, x)': (x) => open('/nowhere', x),
  'open transformers': (x) => open('/nowhere', { transformers: x ?? null, worker: false }),
  'open worker': (x) => open('/nowhere', { transformers, worker: x }),
  'open dtype': (x) => open('/nowhere', { transformers, dtype: x }),
  'open threads': (x) => open('/nowhere', { transformers, threads: x }),
  'getFormat(x)': async (x) => lorakit.getFormat(x),
  'detectFormat(x)': async (x) => lorakit.detectFormat(x),
  'detectFormat(t, x)': async (x) => lorakit.detectFormat('t', x),
  'parseReply(x)': async (x) => lorakit.parseReply(x, null),
  'parseReply(t, x)': async (x) => lorakit.parseReply('t', x),
  'readerOf(x)': async (x) => lorakit.readerOf(x),
  'readerOf(null, x)': async (x) => lorakit.readerOf(null, x),
  'parseReply(t, null, x)': async (x) => lorakit.parseReply('t', null, x),
};

async function table(tasks) {
  const found = {};
  for (const [name, task] of Object.entries(tasks)) {
    found[name] = {};
    for (const [odd, value] of Object.entries(ODD)) found[name][odd] = await outcome(() => task(value));
  }
  return found;
}

/** Names and handles that are not, or no more, what they were. */
async function handles(model, other) {
  const load = (of, name) => of.load({ path: input.home, name, cache: false });
  const first = await load(model, 'x');
  await first.unload();
  const second = await load(model, 'x');
  const foreign = await load(other, 'x');
  const found = {};
  for (const [what, handle] of Object.entries({ first, foreign })) {
    found[`${what} apply`] = await outcome(() => model.apply(handle, 0.5));
    found[`${what} remove`] = await outcome(() => model.remove(handle));
    found[`${what} unload`] = await outcome(() => model.unload(handle));
  }
  found['first.apply'] = await outcome(() => first.apply());
  found['first.unload'] = await outcome(() => first.unload());
  found['first.info'] = await outcome(async () => first.info);
  found['second untouched'] = second.info.scale === null ? 'ok' : 'touched';
  found['unload(handle)'] = await outcome(() => model.unload(second));
  found['a handle among names'] = await outcome(() => model.apply([second]));
  found['the scale of a list'] = await outcome(() => model.apply(['home'], 0.5));
  found['the scale of several'] = await outcome(() => model.apply({ home: 1 }, 0.5));
  found['messages and prompt'] = await outcome(() => model.batch([{ messages: USER, prompt: 'a' }]));
  found['an unknown option'] = await outcome(() => model.chat(USER, { max_tokens: 5 }));
  found['a function in the options'] = await outcome(() => model.chat(USER, { tools: [{ name: 'f', call: () => 1 }], maxTokens: 1 }));
  return found;
}

const here = () => open(input.export, { transformers, dtype: 'fp32' });
const behind = () => {
  const { port1, port2 } = new MessageChannel();
  serve(port1, { transformers });
  return open(input.export, { worker: port2, dtype: 'fp32' });
};
const result = input.handles ? {} : { alone: await table(ALONE) };
for (const [name, make] of Object.entries({ here, behind })) {
  const [model, other] = [await make(), await make()];
  const home = await model.load({ path: input.home, name: 'home', cache: false });
  result[name] = { table: input.handles ? null : await table(calls(model, home)), handles: await handles(model, other) };
  await Promise.all([model.close(), other.close()]);
}
writeFileSync(out, JSON.stringify(result));
process.exit(0);
