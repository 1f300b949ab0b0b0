/**
 * What an adapter's config promises and its file lacks: an incomplete save; as formats/peft/promises.py
 * and formats/mlx/promises.py. PEFT itself loads such a file with a warning, or none. What other
 * modules than a model's linears and its vocabulary lack is known only as far as a page knows them.
 */

import { asInFile, isSeeing, lastOf } from './names.js';

const CLASSIFIERS = ['classifier', 'score']; // PEFT names both for every classifier, whichever there is
const VOCABULARY = new Set(['embed_tokens', 'wte', 'lm_head']); // one matrix under two names, where tied
const LAYER = /^(?:.*\.)?(?:layers|h)\.(\d{1,9})\.(.+)$/;

/** PEFT's rule of modules_to_save: a module whose path ends so, and what lies within it. */
export function isSaved(module, name) {
  return `${module}.`.includes(`${name}.`);
}

/**
 * What a PEFT folder lacks, in sentences.
 * @param {object} config @param {import('./peft_config.js').Resolver} resolver
 * @param {{adapted: Set<string>, replaced: string[], rows: Map<string, any>}} whole what the file has
 * @param {string[] | null} modules the model's linears @param {Map<string, string>} renamed
 */
export function missing(config, resolver, { adapted, replaced, rows }, modules, renamed) {
  const has = (name) => replaced.some((module) => isSaved(module, name));
  const partner = (name) => VOCABULARY.has(lastOf(name)) && config.tiesWeights && replaced.some((module) => VOCABULARY.has(lastOf(module)));
  const lines = [];
  for (const name of config.modulesToSave) {
    const classifier = CLASSIFIERS.includes(name);
    if (has(name) || partner(name) || (modules && isSeeing(name)) || (classifier && (modules || CLASSIFIERS.some(has)))) continue;
    lines.push(`modules_to_save names ${name}, of which the file has no tensors`);
  }
  for (const [name, ids] of config.tokenIndices)
    if (ids.length && !has(name) && !partner(name) && !(name === 'embed_tokens' && has('wte')))
      lines.push(`trainable_token_indices names ${ids.length} tokens of ${name}, of which the file has no rows`);
  if (!modules || !resolver.readable) return lines;
  const held = new Set([...adapted, ...rows.keys()].map((name) => renamed.get(name) ?? name));
  const kinds = config.targetModules instanceof Set ? null : new Set([...held].map(kindOf));
  const lacking = [...modules, ...vocabularyOf(modules)].filter((module) => !held.has(module) && !module.endsWith('.mlp.gate') && (!kinds || kinds.has(kindOf(module))));
  return [...lines, ...lacking.filter((module) => resolver.targeted(asInFile(module, renamed))).map((module) => `the config targets ${module}, which the file lacks`)];
}

/** The modules of the vocabulary, which no input says, by what the model calls its linears. */
function vocabularyOf(modules) {
  const found = modules.map((module) => /^(.*?)(layers|h)\.\d+\./.exec(module)).find((match) => match);
  if (!found) return [];
  const tables = found[2] === 'h' ? ['wte', 'wpe'] : ['embed_tokens'];
  return [...tables.map((name) => found[1] + name), 'lm_head'].filter((name) => !modules.includes(name));
}

/** What a module is in its layer: its path without the layer. */
function kindOf(module) {
  const steps = module.split('.');
  return steps.slice(steps.findLastIndex((step) => /^[0-9]+$/.test(step)) + 1).join('.');
}

/**
 * What an MLX folder lacks, in sentences.
 * @param {{keys: Set<string> | null, layers: number, indices: Set<number> | null}} config
 * @param {Set<string>} names modules as the file calls them @param {string[]} held as the model does
 * @param {string[] | null} modules the model's linears
 */
export function missingMlx({ keys, layers, indices }, names, held, modules) {
  const full = [...(keys ?? [])].filter((key) => LAYER.test(key));
  const lines = full.filter((key) => !names.has(key)).map((key) => `keys names ${key}, of which the file has no tensors`);
  if (!modules) return lines;
  const place = (module) => LAYER.exec(module) ?? [module, '-1', ''];
  const wanted = new Set(keys ? [...keys].filter((key) => !full.includes(key)) : held.map((module) => place(module)[2]));
  const count = Math.max(...modules.map((module) => Number(place(module)[1]))) + 1;
  const acts = (layer) => (indices ? indices.has(layer) : layers <= 0 || layer >= count - layers);
  const there = new Set(held);
  const lacking = modules.filter((module) => !there.has(module) && wanted.has(place(module)[2]) && acts(Number(place(module)[1])));
  return [...lines, ...lacking.map((module) => `the config asks for ${module}, which the file lacks`)];
}
