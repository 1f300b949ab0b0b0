/** What bench/web_fidelity.py runs in Node: `node web_fidelity.mjs MODULES IN OUT`. */
import { readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [, , modules, given, out] = process.argv;
const { reference, others, rows, threads } = JSON.parse(readFileSync(given, 'utf8'));
const dist = join(modules, 'onnxruntime-web/dist');
const ort = await import(pathToFileURL(join(dist, 'ort.wasm.min.mjs')).href);
ort.env.wasm.wasmPaths = pathToFileURL(`${dist}/`).href;
ort.env.wasm.numThreads = threads;

async function session(path) {
  const data = `${path}_data`;
  return ort.InferenceSession.create(new Uint8Array(readFileSync(path)), {
    executionProviders: ['wasm'],
    externalData: [{ path: basename(data), data: new Uint8Array(readFileSync(data)) }],
  });
}

/** Inputs of a whole text: no past, no adapter, the logits of every position. */
function feeds(model, ids) {
  const int64 = (values, dims) => new ort.Tensor('int64', BigInt64Array.from(values, BigInt), dims);
  const found = {
    input_ids: int64(ids, [1, ids.length]),
    attention_mask: int64(ids.map(() => 1), [1, ids.length]),
    num_logits_to_keep: int64([0], []),
  };
  for (const { name, type, shape } of model.inputMetadata) {
    if (name in found) continue;
    const lora = name.includes('.lora_');
    const dims = lora ? shape.map((size) => (typeof size === 'number' ? size : 0)) : [1, shape[1], 0, shape[3]];
    if (lora) dims[0] = 1;
    found[name] = new ort.Tensor(type, type === 'float16' ? new Uint16Array(0) : new Float32Array(0), dims);
  }
  return found;
}

async function logitsOf(model, ids) {
  const { logits } = await model.run(feeds(model, ids));
  return logits.type === 'float32' ? logits.data : Float32Array.from(logits.data);
}

/** Log probabilities, and the likeliest token. */
function logSoftmax(row) {
  const best = row.reduce((most, value, i) => (value > row[most] ? i : most), 0);
  const sum = row.reduce((total, value) => total + Math.exp(value - row[best]), 0);
  return { best, shift: row[best] + Math.log(sum) };
}

function compare(expected, found, positions) {
  const vocabulary = expected.length / positions;
  let [kl, same] = [0, 0];
  for (let at = 0; at < positions; at += 1) {
    const [p, q] = [expected, found].map((values) => values.subarray(at * vocabulary, (at + 1) * vocabulary));
    const [ofP, ofQ] = [logSoftmax(p), logSoftmax(q)];
    for (let token = 0; token < vocabulary; token += 1) {
      const log = p[token] - ofP.shift;
      kl += Math.exp(log) * (log - (q[token] - ofQ.shift));
    }
    same += Number(ofP.best === ofQ.best);
  }
  return [kl, same];
}

const truth = await session(reference);
const results = [];
for (const path of others) {
  const model = await session(path);
  const total = { file: join(basename(dirname(path)), basename(path)), kl: 0, top1: 0, positions: 0, texts: {} };
  for (const [kind, ids] of rows) {
    const [kl, same] = compare(await logitsOf(truth, ids), await logitsOf(model, ids), ids.length);
    total.kl += kl;
    total.top1 += same;
    total.positions += ids.length;
    const text = (total.texts[kind] ??= { kl: 0, positions: 0 });
    text.kl += kl;
    text.positions += ids.length;
  }
  await model.release();
  results.push(total);
}
writeFileSync(out, JSON.stringify(results));
process.exit(0);
