/** What bench/browser.py runs in a page: an expression, given its options. */
async ({ rounds, dtype, threads, prompt, tokens, adapters, worker, digests, peer }) => {
  const { open, cachedAdapters, clearCachedAdapters } = await import('/lib/lorakit.js');
  const now = () => performance.now();
  const began = now();
  const model = await open('/models/base', { dtype, threads, worker });
  const opened = now() - began;
  let wllama = null;
  if (peer) {
    const { Wllama } = await import('/peer/esm/index.js');
    wllama = new Wllama({ default: '/peer/esm/wasm/wllama.wasm' }, { suppressNativeLog: true });
    const gguf = await (await fetch('/peer.gguf')).blob();
    await wllama.loadModel([gguf], { n_threads: threads, n_gpu_layers: 0, n_ctx: 2048, n_parallel: adapters });
  }
  const asked = () => performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('.onnx_data')).length;
  const fetched = asked();
  let turn = 0;
  // Another first token each time, so that no request continues what is kept of another.
  const ids = (length) => [2 + (turn += 1), ...Array.from({ length: length - 1 }, (_, i) => 100 + i)];
  const request = async (count, scales, length = prompt) => {
    const start = now();
    const reply = await model.complete(ids(length), { maxTokens: count, adapters: scales });
    if (reply.ids.length !== count) throw new Error(`${reply.ids.length} tokens of ${count}: another --tokens`);
    return now() - start;
  };
  const load = (name, n, facts = {}) => model.load({ path: `/adapters/${n}/`, name, ...facts });
  /** Loaded, applied, until the first token; and how much of that was loading. */
  const swap = async (facts) => {
    const start = now();
    const handle = await load('b', 1, facts);
    const loaded = now() - start;
    await request(1, { b: 1 });
    const spent = now() - start;
    await handle.unload();
    await settle();
    return [spent - (await request(1, { warm: 1 })), loaded];
  };
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const settle = () => (worker ? pause(1000) : cachedAdapters()); // until all is cached that is to be
  await load('warm', 0);
  await request(tokens, {});
  await request(tokens, { warm: 1 });
  const found = { opened, first: [], firstLoad: [], swap: [], swapLoad: [], step: [], rows: [], base: [], adapted: [], single: [], batch: [], peer: [], beside: [] };
  for (let round = 0; round < rounds; round += 1) {
    await clearCachedAdapters();
    const [first, firstLoad] = await swap();
    const [again, swapLoad] = await swap({ digest: digests[1] });
    found.first.push(first);
    found.firstLoad.push(firstLoad);
    found.swap.push(again);
    found.swapLoad.push(swapLoad);
  }
  const step = async (scales) => {
    const one = await request(1, scales);
    return ((await request(tokens + 1, scales)) - one) / tokens;
  };
  for (let round = 0; round < rounds; round += 1) {
    const base = await step({});
    const adapted = await step({ warm: 1 });
    found.base.push(base);
    found.adapted.push(adapted);
    found.step.push(adapted / base);
  }
  for (let n = 1; n < adapters; n += 1) await load(`a${n}`, n);
  const sets = [{ warm: 1 }, ...Array.from({ length: adapters - 1 }, (_, n) => ({ [`a${n + 1}`]: 1 }))];
  const perSecond = async (run) => {
    const start = now();
    const counts = await run();
    return (1000 * counts.reduce((sum, count) => sum + count, 0)) / (now() - start);
  };
  const theirs = async (n) => {
    const text = `Story ${(turn += 1)} of row ${n}: ${'once upon a time '.repeat(prompt / 4 - 2)}`;
    const { usage } = await wllama.createCompletion({ prompt: text, max_tokens: tokens, temperature: 0 });
    return usage.completion_tokens;
  };
  for (let round = 0; round < rounds; round += 1) {
    const single = await perSecond(async () => {
      const counts = [];
      for (const set of sets) counts.push((await model.complete(ids(prompt), { maxTokens: tokens, adapters: set })).ids.length);
      return counts;
    });
    const batch = await perSecond(async () => {
      const rows = sets.map((set) => ({ prompt: ids(prompt), maxTokens: tokens, adapters: set }));
      return (await model.batch(rows)).map((reply) => reply.ids.length);
    });
    found.single.push(single);
    found.batch.push(batch);
    found.rows.push(batch / single);
    if (!wllama) continue;
    const other = await perSecond(() => Promise.all(sets.map((_, n) => theirs(n))));
    found.peer.push(other);
    found.beside.push(batch / other);
  }
  await model.close();
  found.again = asked() - fetched;
  return found;
}
