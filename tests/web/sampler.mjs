// IN: { logits: rows, params: [...] }; OUT: the tokens that each sampler chooses, row after row.
import { readFileSync, writeFileSync } from 'node:fs';

const [, , web, given, out] = process.argv;
const { Sampler, samplingOf } = await import(`${web}/sampling.js`);
const { logits, params } = JSON.parse(readFileSync(given, 'utf8'));
const rows = logits.map((row) => Float32Array.from(row));
const tokens = params.map((options) => {
  const sampler = new Sampler(samplingOf(options));
  return rows.map((row) => sampler.choose(row));
});
writeFileSync(out, JSON.stringify(tokens));
