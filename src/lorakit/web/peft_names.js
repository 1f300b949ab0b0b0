/**
 * The names in a PEFT file as PEFT itself writes them, as formats/peft/parts.py makes them: without
 * the steps of what wrapped the model, and without the adapter's own name.
 */

import { invalid, unsupported } from './errors.js';
import { unwrapped } from './names.js';
import { FLOATS, valuesOf } from './safetensors.js';

const DEFAULT = 'default'; // what PEFT calls an adapter where nobody does
const NAMED = [
  '.lora_A', '.lora_B', '.lora_embedding_A', '.lora_embedding_B', '.lora_magnitude_vector',
  '.modules_to_save', '.token_adapter.trainable_tokens_delta',
]; // prettier-ignore
// an adapter's name that has dots in it, as no module of torch may be called
const DOTTED =
  /^(?:(\.lora_[AB])\.((?!weight\.|bias\.)[^.]+(?:\.[^.]+)+)(\.weight|\.bias)|(\.lora_(?:embedding_[AB]|magnitude_vector))\.((?!weight\.)[^.]+(?:\.[^.]+)+?)(\.weight|))$/;
// PEFT cut ".lora" out of every name where the adapter was called so: lora_A.lora.weight
const CUT = /^(.+)_(A|B|embedding_A|embedding_B|magnitude_vector)(?:\.weight|\.bias|)$/;
const [COPY, ORIGINAL] = ['.modules_to_save', '.original_module'];

/**
 * What each tensor is called, by its name in the file; what says nothing more is left out.
 * @param {Map<string, import('./safetensors.js').Tensor>} tensors whose names are names
 * @param {string} where its name, for messages @param {string} hint how to use it all the same
 * @returns {Map<string, string>}
 */
export function plainNames(tensors, where, hint) {
  const names = new Map([...tensors.keys()].map((key) => [key, unwrapped(key)]));
  refuseCut([...names.values()], where);
  const table = ofOne(names, where, hint);
  const keys = new Map([...table].map(([key, name]) => [name, key]).reverse()); // the first of a name
  return new Map([...table].filter(([key, name]) => !isAgain(key, name, keys, tensors)));
}

function refuseCut(names, where) {
  if (names.some((name) => name.includes('.lora_'))) return;
  const found = names.map((name) => CUT.exec(name)).filter((match) => match);
  const stems = (end) => new Set(found.filter(([, , kind]) => kind.endsWith(end)).map(([, stem]) => stem));
  const bottoms = stems('B');
  const [stem] = [...stems('A')].filter((name) => bottoms.has(name)).sort();
  if (stem !== undefined)
    throw invalid(`${where}: PEFT cut the word lora out of its names, as it did where an adapter was called lora`, {
      items: [`${stem}_A is ${stem}.lora_A`],
      hint: `lorakit repair ${where} -o OUT writes it as it was meant`,
    });
}

/** The names without that of the adapter. Throws where the file holds several. */
function ofOne(names, where, hint) {
  const found = new Map([...names].map(([key, name]) => [key, named(name)]));
  const adapters = new Set([...found.values()].filter((one) => one?.stem.includes('.lora_')).map(({ who }) => who));
  if (adapters.size > 1)
    throw unsupported(`${where} holds ${adapters.size} adapters in one file`, {
      items: [...adapters].sort().slice(0, 20),
      hint: `choose one: lorakit repair ${where} -o OUT --name NAME; then ${hint}`,
    });
  const [own] = [...adapters, DEFAULT];
  const table = new Map();
  for (const [key, name] of names) {
    const { stem, who, end } = found.get(key) ?? { who: '' };
    if (who && who === own) table.set(key, stem + end);
    else if (who !== DEFAULT) table.set(key, name);
  }
  return table;
}

/** A tensor's name in three: before the adapter's name, that name, and after; null: without. */
function named(name) {
  const [, rest, end] = /^(.*?)((?:\.weight|\.bias)?)$/.exec(name);
  const at = rest.lastIndexOf('.');
  const stem = rest.slice(0, Math.max(at, 0));
  if (NAMED.some((known) => stem.endsWith(known))) return { stem, who: rest.slice(at + 1), end };
  const inside = name.indexOf('.lora_');
  const dotted = inside < 0 ? null : DOTTED.exec(name.slice(inside));
  if (!dotted) return null;
  const [part, who, tail] = dotted[1] ? dotted.slice(1, 4) : dotted.slice(4);
  return { stem: name.slice(0, inside) + part, who, end: tail };
}

/**
 * Whether a tensor says nothing more, as PEFT saves a whole vocabulary that was resized: beside the
 * trained copy the original, which is the base's, and the copy under the module's own name.
 */
function isAgain(key, name, keys, tensors) {
  const at = name.lastIndexOf('.');
  const [module, kind] = [name.slice(0, Math.max(at, 0)), name.slice(at + 1)];
  const original = module.endsWith(ORIGINAL);
  const copy = keys.get(`${original ? module.slice(0, -ORIGINAL.length) : module}${COPY}.${kind}`);
  if (copy === undefined || module.endsWith(COPY)) return false;
  return original || same(tensors.get(key), tensors.get(copy));
}

function same(one, other) {
  if (`${one.shape}` !== `${other.shape}`) return false;
  const floats = FLOATS.has(one.dtype) && FLOATS.has(other.dtype);
  if (!floats && one.dtype !== other.dtype) return false;
  const [values, others] = floats ? [valuesOf(one), valuesOf(other)] : [one.data, other.data];
  return values.every((value, index) => value === others[index]);
}
