// JSON in: folders to read, patterns, configs and texts to take; JSON out: what lorakit.js says of each.
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const [, , web, given, out] = process.argv;
const load = (name) => import(pathToFileURL(`${web}/${name}.js`).href);
const [{ readAdapter }, { fetchAdapter }, { parseJson }, { PatternTable, Regex }, { Resolver, parseConfig }, { fromFloat16, toFloat16 }] =
  await Promise.all(['adapter', 'sources', 'json', 'patterns', 'peft_config', 'float16'].map(load));

/** SHA-256 of all factors, by module, A [in, r] before B [r, out], as float32. */
function digestOf(tensors) {
  const hash = createHash('sha256');
  for (const module of [...tensors.keys()].sort()) {
    hash.update(`${module}\n`);
    for (const part of ['a', 'b']) {
      const { buffer, byteOffset, byteLength } = tensors.get(module)[part];
      hash.update(new Uint8Array(buffer, byteOffset, byteLength));
    }
  }
  return hash.digest('hex');
}

async function readFolder({ path, modules }) {
  const before = process.cpuUsage();
  const found = await attempt(async () => {
    const adapter = await readAdapter(await fetchAdapter({ path, cache: false }), { modules });
    const { digest, base, baseName, rank, name, warnings } = adapter;
    return { code: 'read', tensors: digestOf(adapter.tensors), digest, base, baseName, rank, name, warnings };
  });
  const { user, system } = process.cpuUsage(before);
  return { ...found, ms: (user + system) / 1000 };
}

async function attempt(task) {
  try {
    return await task();
  } catch (error) {
    if (typeof error.code !== 'string' || error.name !== 'LorakitError') return { code: `BROKEN: ${error.stack}` };
    return { code: error.code, message: error.message, items: error.items, hint: error.hint };
  }
}

/** What a pattern says of each text, or why it is none. */
function matches({ pattern, texts, keys }) {
  try {
    const match = keys ? new PatternTable(keys) : new Regex(pattern);
    return texts.map((text) => (keys ? match.first(text) : match.fullmatch(text)));
  } catch (error) {
    return ['PatternError', 'UnknownSyntaxError'].includes(error.constructor.name) ? 'PatternError' : `BROKEN: ${error.stack}`;
  }
}

function resolved({ text, names }) {
  const resolver = new Resolver(parseConfig(parseJson(Buffer.from(text)).value, 'here', ''));
  return names.map((name) => [resolver.targeted(name), resolver.rank(name), resolver.scale(name)]);
}

/** JSON in one spelling: whole numbers and others apart, floats by their bits, strings by their units. */
function spelled(value) {
  if (value instanceof Map) return `{${[...value].map(([key, item]) => `${spelled(key)}:${spelled(item)}`).join()}}`;
  if (Array.isArray(value)) return `[${value.map(spelled).join()}]`;
  if (typeof value === 'bigint') return `i${value}`;
  if (typeof value === 'string') return `s${Buffer.from(value, 'utf16le').toString('hex')}`;
  if (typeof value !== 'number') return String(value);
  const bits = Buffer.alloc(8);
  bits.writeDoubleBE(value);
  return Number.isNaN(value) ? 'fnan' : `f${bits.toString('hex')}`;
}

function parsed(text) {
  try {
    return spelled(parseJson(Buffer.from(text, 'base64')).value);
  } catch (error) {
    return error.constructor.name === 'JsonError' ? 'JsonError' : `BROKEN: ${error.stack}`;
  }
}

function halves(text) {
  const words = new Uint8Array(Buffer.from(text, 'base64')).buffer;
  const there = toFloat16(new Float32Array(words));
  return [there, fromFloat16(there)].map((array) => Buffer.from(array.buffer).toString('base64'));
}

const { folders = [], patterns = [], configs = [], texts = [], floats } = JSON.parse(readFileSync(given, 'utf8'));
const answers = { folders: [], patterns: patterns.map(matches), configs: configs.map(resolved), texts: texts.map(parsed) };
for (const folder of folders) answers.folders.push(await readFolder(folder));
if (floats) answers.floats = halves(floats);
writeFileSync(out, JSON.stringify(answers));
