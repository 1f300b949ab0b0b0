/**
 * mlx-lm's adapter_config.json in all its versions: the rank, the scale, and which layers; as
 * formats/mlx/config.py. mlx-lm from 0.14.1 on uses `scale` as it is; before, it computed
 * scale * alpha / rank. The keys tell the version, as far as they do. A config of `rank`, `alpha` and
 * `layers` alone is no mlx-lm's: there the scale is alpha / rank.
 */

import { unsupported } from './errors.js';

export const CONFIG = 'adapter_config.json';
const MAX_RANK = 1 << 16;
const MAX_LAYERS = 1 << 16;
const FLOAT32_MAX = 3.4028234663852886e38;
const LAYERS = ['num_layers', 'lora_layers', 'layers'];

/** Whether a config beside MLX's weights is one of those. @param {Map<string, any>} config */
export function isMlxConfig(config) {
  return config.has('fine_tune_type') || config.has('lora_parameters') || (config.has('rank') && config.has('alpha'));
}

/**
 * The config's meaning; what is wrong with a field goes into `faults`.
 * @param {Map<string, any>} config @param {string} where the adapter's name, for messages
 * @param {string} hint how to use one that a page cannot read @param {string[]} faults
 */
export function parseMlxConfig(config, where, hint, faults) {
  const dora = isDora(config, where, hint, faults);
  const plain = !config.has('lora_parameters') && !config.has('fine_tune_type');
  const table = plain ? config : config.get('lora_parameters');
  if (!(table instanceof Map)) {
    faults.push(`${CONFIG}: lora_parameters must be an object`);
    return { rank: 0, scale: 0, keys: null, dora, layers: -1, indices: null };
  }
  const good = isWhole(table.get('rank'), 1, MAX_RANK);
  if (!good) faults.push(`${CONFIG}: rank must be a whole number from 1`);
  const rank = good ? Number(table.get('rank')) : 0;
  const scale = plain ? quotient(table, rank, faults) : scaleOf(config, rank, { faults, where, hint });
  return { rank, scale, keys: keysOf(table, faults), dora, ...layersOf(config, faults) };
}

function isDora(config, where, hint, faults) {
  const [kind, flag] = [config.get('fine_tune_type') ?? null, config.has('use_dora') ? config.get('use_dora') : false];
  if (kind === 'full')
    throw unsupported(`${where} is a full fine-tune: whole weights, not low-rank deltas`, {
      hint: 'fuse it into its base with mlx_lm.fuse, and export that model: lorakit export MODEL --to onnx -o OUT',
    });
  if (kind !== null && kind !== 'lora' && kind !== 'dora')
    throw unsupported(`${where}: this fine_tune_type cannot be read`, { found: String(kind), hint });
  if (typeof flag !== 'boolean') faults.push(`${CONFIG}: use_dora must be true or false`);
  return kind === null ? flag === true : kind === 'dora';
}

function quotient(table, rank, faults) {
  const alpha = number(table, 'alpha', faults);
  const scale = rank ? alpha / rank : 0;
  if (table.has('scale') && !equals(table.get('scale'), scale)) faults.push(`${CONFIG}: scale beside alpha / rank = ${scale}: which is it?`);
  return scale;
}

function scaleOf(config, rank, { faults, where, hint }) {
  const table = config.get('lora_parameters');
  const scale = number(table, 'scale', faults);
  const newer = config.has('fine_tune_type') || config.has('num_layers');
  if (newer || !table.has('alpha') || equals(table.get('alpha'), rank)) return scale;
  const old = config.has('lora_layers') && !config.has('use_dora');
  const alpha = number(table, 'alpha', faults);
  if (!faults.length && !old)
    throw unsupported(`the scale of ${where} depends on the mlx-lm that trained it: ${(scale * alpha) / rank} up to 0.14.0, ${scale} since`, {
      items: [`rank ${rank}, alpha ${alpha}, scale ${scale}`],
      hint: `say which: lorakit convert ADAPTER OUT --to web --mlx-version 0.14.0 or 0.18; or ${hint}`,
    });
  return rank ? (scale * alpha) / rank : 0;
}

function keysOf(table, faults) {
  const keys = table.get('keys') ?? null;
  if (keys === null) return null;
  if (Array.isArray(keys) && keys.every((key) => typeof key === 'string')) return new Set(keys);
  faults.push(`${CONFIG}: keys must be a list of names`);
  return null;
}

function layersOf(config, faults) {
  const name = LAYERS.find((key) => config.has(key)) ?? LAYERS[0];
  const value = config.has(name) ? config.get(name) : -1n;
  const isLayer = (layer) => isWhole(layer, 0, MAX_LAYERS);
  if (name === 'layers' && Array.isArray(value) && value.every(isLayer)) return { layers: -1, indices: new Set(value.map(Number)) };
  if (value !== null && !isWhole(value, -1, MAX_LAYERS)) faults.push(`${CONFIG}: ${name} must be a whole number`);
  return { layers: typeof value === 'bigint' ? Number(value) : -1, indices: null };
}

function number(table, name, faults) {
  const value = table.get(name);
  const good = isNumber(value) && value <= FLOAT32_MAX && value >= -FLOAT32_MAX;
  if (!good) faults.push(`${CONFIG}: ${name} must be a finite number`);
  return good ? Number(value) : 0;
}

function isNumber(value) {
  return typeof value === 'bigint' || typeof value === 'number';
}

function isWhole(value, low, high) {
  return typeof value === 'bigint' && value >= low && value <= high;
}

function equals(value, number) {
  return isNumber(value) && Number(value) === number;
}
