/**
 * An mlx-lm adapter folder as deltas of linear layers; every tensor is accounted for or refused, as
 * formats/mlx does. mlx-lm 0.32 computes y = W x + scale (x A) B with A [in, r] and B [r, out]: there
 * is no alpha, and one rank and one scale hold for the whole file.
 */

import { LorakitError, firstOf, invalid, unsupported } from './errors.js';
import { isModule, isName, lastOf, tensorFault } from './names.js';
import { FINGERPRINT } from './peft.js';
import { readSafetensors } from './safetensors.js';

export const WEIGHTS = 'adapters.safetensors';
const CONFIG = 'adapter_config.json';
const [A, B, M] = ['.lora_a', '.lora_b', '.m'];
const MAX_RANK = 1 << 16;
const MAX_LAYERS = 1 << 16;
const FLOAT32_MAX = 3.4028234663852886e38;
const TABLES = new Set(['embed_tokens', 'wte']);
const LAYER = /^(?:.*\.)?(?:layers|h)\.(\d{1,9})\.(.+)$/;

/**
 * @param {Map<string, Uint8Array>} files @param {Map<string, any>} config
 * @param {string} where its name, for messages @param {string} hint how to use it all the same
 * @returns {import('./adapter.js').Read}
 */
export function readMlx(files, config, where, hint) {
  const kind = config.has('fine_tune_type') ? config.get('fine_tune_type') : 'lora';
  if (kind === 'full')
    throw unsupported(`${where} is a full fine-tune: whole weights, not low-rank deltas`, {
      hint: 'fuse it into its base with mlx_lm.fuse, and export that model: lorakit export MODEL --to onnx -o OUT',
    });
  if (kind !== 'lora' && kind !== 'dora')
    throw unsupported(`${where}: this fine_tune_type cannot be read`, { found: String(kind), hint });
  const { tensors, metadata } = readSafetensors(files.get(WEIGHTS), `${where}/${WEIGHTS}`);
  const faults = [];
  const { rank, scale, keys } = parameters(config, faults);
  const modules = sort(tensors, faults);
  for (const [name, parts] of modules) faults.push(...moduleFaults(name, parts, { rank, dora: kind === 'dora', keys }));
  const unnamed = [...modules.keys()].filter((name) => !keys?.has(name));
  faults.push(...layerFaults(config.has('num_layers') ? config.get('num_layers') : -1n, unnamed));
  if (!modules.size && !faults.length) faults.push('no tensor at all: the adapter does nothing');
  if (faults.length) throw invalid(`the MLX adapter in ${where} does not agree with itself`, { items: firstOf(faults) });
  requireApart(modules, where);
  const baseName = config.get('model');
  return {
    deltas: [...modules].filter(([name]) => isLinear(name, modules)).map(([name, parts]) => deltaOf(name, parts, scale)),
    beyond: [...modules].flatMap(([name, parts]) => beyondOf(canonical(name), parts)),
    base: metadata.get(FINGERPRINT) ?? '',
    baseName: typeof baseName === 'string' ? baseName : '',
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

/** Rank, scale and keys; what is wrong with them goes into `faults`. */
function parameters(config, faults) {
  const table = config.get('lora_parameters');
  if (!(table instanceof Map)) {
    faults.push(`${CONFIG}: lora_parameters must be an object`);
    return { rank: 0, scale: 0, keys: null };
  }
  const [rank, scale, keys] = ['rank', 'scale', 'keys'].map((name) => table.get(name));
  if (typeof rank !== 'bigint' || rank <= 0n || rank > MAX_RANK) faults.push(`${CONFIG}: rank must be a whole number from 1`);
  if (!isFloat32(scale)) faults.push(`${CONFIG}: scale must be a finite number`);
  const none = keys === undefined || keys === null;
  const listed = Array.isArray(keys) && keys.every((key) => typeof key === 'string');
  if (!none && !listed) faults.push(`${CONFIG}: keys must be a list of names`);
  return { rank: Number(rank), scale: isFloat32(scale) ? Number(scale) : 0, keys: listed ? new Set(keys) : null };
}

function isFloat32(value) {
  return (typeof value === 'bigint' || typeof value === 'number') && value <= FLOAT32_MAX && value >= -FLOAT32_MAX;
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

/** mlx-lm adapts the last `num_layers` layers, and modules that `keys` names in full anywhere. */
function layerFaults(count, modules) {
  if (typeof count !== 'bigint' || count < -1n || count > MAX_LAYERS) return [`${CONFIG}: num_layers must be a whole number`];
  const indices = modules.flatMap((module) => LAYER.exec(module)?.[1] ?? []).map(Number);
  const span = indices.length ? indices.reduce((x, y) => Math.max(x, y)) - indices.reduce((x, y) => Math.min(x, y)) + 1 : 0;
  return count > 0n && Number(count) < span ? [`${CONFIG}: ${count} layers, but tensors span ${span}`] : [];
}
