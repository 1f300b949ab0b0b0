/**
 * What a name in a stranger's file may be, what wrapped the model that it is of, and what a tensor
 * looks like in a message. The tables are those of formats/names.py.
 */

import { FLOATS } from './safetensors.js';

const MAX_NAME = 512; // characters of a tensor's name
const PRINTABLE = /^[\x20-\x7e]*$/;
// steps that are of a wrapper whatever follows
const WRAPPERS = new Set(['_orig_mod', '_fsdp_wrapped_module', '_fpw_module', '_checkpoint_wrapped_module', '_forward_module', '_module']);
const OUTSIDE = /^(?:module\.|base_model\.model\.)+/;
const IN_PATTERN = new RegExp(`(?<![\\w-])(?:${[...WRAPPERS].join('|')})\\\\?\\.`, 'g'); // the dot escaped or not
// steps under which models that see or hear keep the parts that do: architectures/inner.py
const SEEING = new Set([
  'vision_tower', 'vision_model', 'vision_encoder', 'visual', 'embed_vision', 'multi_modal_projector', 'mm_projector',
  'audio_tower', 'embed_audio', 'connector', 'vision_embed_tokens', 'embed_tokens_extend',
]); // prettier-ignore
// what a name may begin with before the model itself does; the model says where that is
const BEFORE = new Set([
  'base_model', 'model', 'module', 'language_model', 'text_model', 'pretrained_model', 'policy', 'actor', 'transformer', 'llm',
]); // prettier-ignore
const ROOT = /^(.*?)(?:layers|h|blocks)\.\d+\./;

/**
 * Whether it can name a tensor: printable ASCII of bounded length. Letters of other scripts only
 * look like those of a base.
 * @param {string} name
 */
export function isName(name) {
  return name.length <= MAX_NAME && PRINTABLE.test(name);
}

/** Whether it can name a module: no part of it is empty or climbs. @param {string} name */
export function isModule(name) {
  return name.split('.').every((part) => part !== '' && !/[/\\]/.test(part));
}

/** The last part of a module's name. @param {string} module */
export function lastOf(module) {
  return module.slice(module.lastIndexOf('.') + 1);
}

/** What speaks against a tensor as a part of an adapter, or nothing. */
export function tensorFault({ dtype, shape }) {
  if (!FLOATS.has(dtype)) return `dtype ${dtype} where floating point is expected`;
  return shape.includes(0) ? `an empty tensor [${shape}]; sharded weights that were not gathered?` : '';
}

/** A tensor's name without wrappers and without PEFT's own beginning, however often it is there. */
export function unwrapped(name) {
  const steps = name.split('.');
  const plain = steps.some((step) => WRAPPERS.has(step)) ? steps.filter((step) => !WRAPPERS.has(step)).join('.') : name;
  return plain.replace(OUTSIDE, '');
}

/** A name of modules, or a pattern for names, that asks for no wrapper's steps. @param {string} pattern */
export function askingUnwrapped(pattern) {
  return pattern.replace(IN_PATTERN, '').replace(/^module\./, '').replace(/^base_model\.model\./, '');
}

/** Whether a module or a parameter is of a part that sees or hears, which no model of text has. */
export function isSeeing(name) {
  return name.split('.', 3).some((step) => SEEING.has(step));
}

/**
 * What modules are called in a model, by their names in a file that it does not have: where one of
 * its own, and one alone, is what remains of a name without its beginning, and no other has it.
 * @param {string[]} held @param {string[]} modules the model's @returns {Map<string, string>}
 */
export function renamings(held, modules) {
  const known = new Set(modules);
  const root = modules.map((module) => ROOT.exec(module)?.[1]).find((found) => found !== undefined) ?? '';
  const table = new Map();
  for (const name of held) {
    const found = known.has(name) ? null : inModel(name, root, known);
    if (found !== null) table.set(name, found);
  }
  const names = new Set(held.map((name) => table.get(name) ?? name));
  return names.size < held.length ? new Map() : table; // two names would become one
}

function inModel(name, root, known) {
  const steps = name.split('.').filter((step) => step !== 'module'); // DDP, around any part
  const found = new Set();
  for (const [start, step] of steps.entries()) {
    const rest = steps.slice(start).join('.');
    for (const candidate of [rest, root + rest]) if (known.has(candidate)) found.add(candidate);
    if (!BEFORE.has(step)) break;
  }
  return found.size === 1 ? [...found][0] : null;
}

/**
 * What a module of the model is called in a file whose names were changed so.
 * @param {string} module @param {Map<string, string>} table of `renamings`
 */
export function asInFile(module, table) {
  for (const [before, after] of beginnings(table)) if (module.startsWith(after)) return before + module.slice(after.length);
  return module;
}

/** In what the beginnings of names differ, each once: ['model.language_model.', 'model.']. */
function beginnings(table) {
  const found = new Map();
  for (const [before, after] of table) {
    let same = 0;
    const [a, b] = [before.split('.'), after.split('.')];
    while (same < Math.min(a.length, b.length) && a.at(-1 - same) === b.at(-1 - same)) same += 1;
    const pair = [a, b].map((steps) => steps.slice(0, steps.length - same).map((step) => `${step}.`).join(''));
    found.set(pair.join('|'), pair);
  }
  return [...found].sort(([x], [y]) => (x < y ? -1 : 1)).map(([, pair]) => pair);
}
