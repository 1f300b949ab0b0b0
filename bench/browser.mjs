/** What bench/browser.py runs in a page: an expression, given its options. */
async ({ rounds, dtype, threads, prompt, tokens, adapters }) => {
  const { open } = await import('/lib/lorakit.js');
  const now = () => performance.now();
  const began = now();
  const model = await open('/models/base', { dtype, threads, worker: false });
  const opened = now() - began;
  const asked = () => performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('.onnx_data')).length;
  const fetched = asked();
  let turn = 0;
  // Another first token each time, so that no request continues what is kept of another.
  const ids = (length) => [2 + (turn += 1), ...Array.from({ length: length - 1 }, (_, i) => 100 + i)];
  const request = async (count, scales, length = prompt) => {
    const start = now();
    const reply = await model.complete(ids(length), { maxTokens: count, adapters: scales });
    if (reply.ids.length !== count) throw new Error(`${reply.ids.length} tokens of ${count}`);
    return now() - start;
  };
  const load = (name, path) => model.load({ path: `/adapters/${path}/`, name });
  const swap = async (name, path) => {
    const start = now();
    const handle = await load(name, path);
    await request(1, { [name]: 1 });
    const spent = now() - start;
    await handle.unload();
    return spent - (await request(1, { warm: 1 }));
  };
  await load('warm', '0');
  await request(tokens, {});
  await request(tokens, { warm: 1 });
  const found = { opened, first: [], swap: [], step: [], rows: [], base: [], adapted: [], single: [], batch: [] };
  found.first.push(await swap('b', '1'));
  for (let round = 0; round < rounds; round += 1) found.swap.push(await swap('b', '1'));
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
  for (let n = 1; n < adapters; n += 1) await load(`a${n}`, String(n));
  const sets = [{ warm: 1 }, ...Array.from({ length: adapters - 1 }, (_, n) => ({ [`a${n + 1}`]: 1 }))];
  for (let round = 0; round < rounds; round += 1) {
    let start = now();
    for (const set of sets) await request(tokens, set);
    const single = now() - start;
    start = now();
    const rows = sets.map((set) => ({ prompt: ids(prompt), maxTokens: tokens, adapters: set }));
    await model.batch(rows);
    const batch = now() - start;
    found.rows.push(single / batch);
    found.single.push((1000 * adapters * tokens) / single);
    found.batch.push((1000 * adapters * tokens) / batch);
  }
  await model.close();
  found.again = asked() - fetched;
  return found;
}
