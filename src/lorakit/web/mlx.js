/**
 * An mlx-lm adapter folder as deltas of linear layers; every tensor is accounted for or refused, as
 * formats/mlx does. mlx-lm computes y = W x + scale (x A) B with A [in, r] and B [r, out]: there
 * is no alpha, and one rank and one scale hold for the whole file.
 */

import { LorakitError, firstOf, invalid, unsupported } from './errors.js';
import { CONFIG, parseMlxConfig } from './mlx_config.js';
import { isModule, isName, lastOf, tensorFault } from './names.js';
import { FINGERPRINT } from './peft.js';
import { missingMlx } from './promises.js';
import { readSafetensors } from './safetensors.js';

export const WEIGHTS = 'adapters.safetensors';
export const CHECKPOINT = /^\d{7}_adapters\.safetensors$/; // weights at a training step
const [A, B, M] = ['.lora_a', '.lora_b', '.m'];
const TABLES = new Set(['embed_tokens', 'wte']);
const LAYER = /^(?:.*\.)?(?:layers|h)\.(\d{1,9})\.(.+)$/;

/**
 * @param {Map<string, Uint8Array>} files @param {Map<string, any>} raw the config
 * @param {string} where its name, for messages @param {string} hint how to use it all the same
 * @returns {import('./adapter.js').Read}
 */
export function readMlx(files, raw, where, hint) {
  const faults = [];
  const config = parseMlxConfig(raw, where, hint, faults);
  const { tensors, metadata } = readSafetensors(files.get(WEIGHTS), `${where}/${WEIGHTS}`);
  if (tensors.size && [...tensors.keys()].every((name) => /\.[AB]$/.test(name)))
    throw unsupported(`${where} is an adapter of mlx-vlm, a library of its own for vision models`, { hint });
  const modules = sort(tensors, faults);
  for (const [name, parts] of modules) faults.push(...moduleFaults(name, parts, config));
  faults.push(...layerFaults(config, [...modules.keys()].filter((name) => !config.keys?.has(name))));
  if (!modules.size && !faults.length) faults.push('no tensor at all: the adapter does nothing');
  if (faults.length) throw invalid(`the MLX adapter in ${where} does not agree with itself`, { items: firstOf(faults) });
  requireApart(modules, where);
  const baseName = raw.get('model');
  const names = [...modules.keys()];
  return {
    deltas: [...modules].filter(([name]) => isLinear(name, modules)).map(([name, parts]) => deltaOf(name, parts, config.scale)),
    beyond: [...modules].flatMap(([name, parts]) => beyondOf(canonical(name), parts)),
    base: metadata.get(FINGERPRINT) ?? '',
    baseName: typeof baseName === 'string' ? baseName : '',
    lacking: (model, renamed) => {
      const held = names.map(canonical).map((name) => renamed.get(name) ?? name);
      return missingMlx(config, new Set(names), held, model);
    },
  };
}

/** The Hugging Face path of an mlx-lm module. @param {string} name */
function canonical(name) {
  const expert = /^(.+\.)switch_mlp(\.(?:gate|up|down)_proj)$/.exec(name);
  if (expert) return `${expert[1]}experts${expert[2]}`;
  return /^model\.(?:h\.\d+\..+|wte|wpe)$/.test(name) ? name.replace(/^model/, 'transformer') : name;
}

/** Two of mlx-lm's names may not be one of Hugging Face's. */
function requireApart(modules, where) {
  const names = [...modules.keys()].map(canonical);
  const twice = names.filter((name, index) => names.indexOf(name) !== index);
  if (twice.length) throw new LorakitError(`${where}: the adapter holds a part more than once`, { code: 'adapter_invalid', items: twice });
}

function isLinear(name, modules) {
  return !beyondOf(canonical(name), modules.get(name)).length;
}

/** What no input of an exported graph says. */
function beyondOf(module, parts) {
  const found = [];
  if (parts.has(M)) found.push(`${module}: a DoRA magnitude`);
  if (parts.get(A).shape.length === 3) found.push(`${module}: experts`);
  if (TABLES.has(lastOf(module))) found.push(`${module}: a delta of the embedding`);
  return found;
}

function deltaOf(name, parts, scale) {
  const [a, b] = [parts.get(A), parts.get(B)];
  return { module: canonical(name), a, b, rank: a.shape[1], in: a.shape[0], out: b.shape[1], scale, turned: false };
}

/** @returns {Map<string, Map<string, import('./safetensors.js').Tensor>>} */
function sort(tensors, faults) {
  const modules = new Map();
  for (const name of [...tensors.keys()].sort()) {
    const end = [A, B, M].find((part) => name.endsWith(part)) ?? '';
    const module = name.slice(0, name.length - end.length);
    const fault = tensorFault(tensors.get(name));
    if (!isName(name)) faults.push(`'${name.slice(0, 80)}': not a tensor name`);
    else if (!end || !isModule(module)) faults.push(`${name}: not part of any LoRA layer that lorakit knows`);
    else if (fault) faults.push(`${name}: ${fault}`);
    else modules.set(module, (modules.get(module) ?? new Map()).set(end, tensors.get(name)));
  }
  return modules;
}

function moduleFaults(module, parts, { rank, dora, keys }) {
  const wanted = dora ? [A, B, M] : [A, B];
  if (parts.size !== wanted.length || !wanted.every((part) => parts.has(part)))
    return [`${module}: has ${[...parts.keys()].sort()}, expected ${wanted}`];
  const [a, b] = [parts.get(A).shape, parts.get(B).shape];
  const faults = [];
  if (!fit(a, b, rank)) faults.push(`${module}: the config gives rank ${rank}, the tensors are lora_a [${a}] and lora_b [${b}]`);
  else if (dora) faults.push(...magnitudeFaults(module, a, b, parts.get(M).shape));
  const relative = LAYER.exec(module)?.[2] ?? module;
  if (keys && !keys.has(module) && !keys.has(relative)) faults.push(`${module}: has LoRA tensors, but the config's keys do not name it`);
  return faults;
}

/** A [in, r] and B [r, out]; for experts A [E, r, in] and B [E, out, r]. */
function fit(a, b, rank) {
  if (a.length === 2 && b.length === 2) return a[1] === rank && b[0] === rank;
  return a.length === 3 && b.length === 3 && a[1] === rank && b[2] === rank && a[0] === b[0];
}

/** m is [out]; [vocabulary] for an embedding. */
function magnitudeFaults(module, a, b, m) {
  if (a.length === 3) return [`${module}: DoRA of experts, which MLX lacks`];
  const wanted = TABLES.has(lastOf(canonical(module))) ? a[0] : b[1];
  return m.length === 1 && m[0] === wanted ? [] : [`${module}: m is [${m}], expected [${wanted}]`];
}

/**
 * mlx-lm adapts the last `layers` layers, or those in `indices`, and modules that `keys` names in
 * full anywhere. @param {string[]} modules those that are not named in full
 */
function layerFaults({ layers, indices }, modules) {
  const held = modules.flatMap((module) => LAYER.exec(module)?.[1] ?? []).map(Number);
  if (indices) {
    const beyond = [...new Set(held)].filter((layer) => !indices.has(layer));
    return beyond.length ? [`${CONFIG}: layers does not list ${beyond}, which have tensors`] : [];
  }
  const span = held.length ? held.reduce((x, y) => Math.max(x, y)) - held.reduce((x, y) => Math.min(x, y)) + 1 : 0;
  return layers > 0 && layers < span ? [`${CONFIG}: ${layers} layers, but tensors span ${span}`] : [];
}
