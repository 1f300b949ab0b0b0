/**
 * Safetensors files, without trusting them: every length is compared with what there is before it
 * is used, and data has neither overlaps nor holes. Read in the format's own description
 * (huggingface/safetensors).
 */

import { invalid } from './errors.js';
import { fromBfloat16, fromFloat16 } from './float16.js';
import { JsonError, parseJson } from './json.js';

const SIZES = {
  F64: 8, F32: 4, F16: 2, BF16: 2, F8_E4M3: 1, F8_E5M2: 1, I64: 8, I32: 4, I16: 2, I8: 1, U8: 1, BOOL: 1,
}; // prettier-ignore
const ARRAYS = { F64: Float64Array, F32: Float32Array, F16: Uint16Array, BF16: Uint16Array };
export const FLOATS = new Set(Object.keys(ARRAYS));
export const MAX_HEADER = 16 << 20; // bytes
const MAX_TENSORS = 100_000;
const MAX_NOTES = 20_000; // commas and brackets of a header beyond those of its tensors
const MAX_DIMENSIONS = 16;
const POINTER = 'version https://git-lfs';
const LONE = /\p{Surrogate}/u;

/**
 * @typedef {{dtype: string, shape: number[], data: Uint8Array}} Tensor data: its bytes in the file
 * @typedef {{tensors: Map<string, Tensor>, metadata: Map<string, string>, data: Uint8Array}} File
 *   data: all bytes behind the header
 */

/**
 * @param {Uint8Array} content @param {string} where its name, for messages
 * @returns {File}
 */
export function readSafetensors(content, where) {
  refusePointer(content, where);
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const length = content.length >= 8 ? view.getBigUint64(0, true) : 0n;
  if (length < 2n || length > BigInt(content.length - 8))
    throw invalid(`${where} is not a complete safetensors file`, {
      items: [`header of ${length} bytes claimed, file of ${content.length} bytes found`],
      hint: 'download or copy the file again',
    });
  if (length > MAX_HEADER) throw invalid(`${where} has a header of ${length} bytes; ${MAX_HEADER} is the limit`);
  const begin = 8 + Number(length);
  const data = content.subarray(begin);
  try {
    const header = parseHeader(content.subarray(8, begin));
    const metadata = metadataOf(header);
    const entries = [...header].map(([name, entry]) => [name, readEntry(name, entry, data.length)]);
    requireContiguous(entries, data.length);
    const tensors = entries.map(([name, { dtype, shape, start, end }]) => [
      name, { dtype, shape, data: data.subarray(start, end) },
    ]); // prettier-ignore
    return { tensors: new Map(tensors), metadata, data };
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    throw invalid(`${where} is not a valid safetensors file: ${error.message}`, {
      hint: 'the file may be truncated: download or copy it again',
    });
  }
}

/** A few lines that git keeps in the place of a large file are refused as what they are. */
export function refusePointer(content, where) {
  const head = new TextDecoder('latin1').decode(content.subarray(0, POINTER.length));
  if (head === POINTER)
    throw invalid(`${where} is the pointer of git-lfs to a file that was not downloaded`, { hint: 'fetch the files themselves: git lfs pull' });
}

/** The values of a tensor of floats as float32, to be read only. @param {Tensor} tensor @returns {Float32Array} */
export function toFloat32(tensor) {
  const values = valuesOf(tensor);
  return values instanceof Float32Array ? values : new Float32Array(values);
}

/** The values of a tensor of floats, exactly, to be read only: of its file, where that can be. @param {Tensor} tensor */
export function valuesOf({ dtype, data }) {
  const Values = ARRAYS[dtype];
  const { buffer, byteOffset } = data.byteOffset % Values.BYTES_PER_ELEMENT ? data.slice() : data; // a tensor may begin anywhere
  const values = new Values(buffer, byteOffset, data.length / Values.BYTES_PER_ELEMENT);
  if (dtype === 'F16') return fromFloat16(values);
  return dtype === 'BF16' ? fromBfloat16(values) : values;
}

/** @param {Uint8Array} bytes @returns {Map<string, any>} */
function parseHeader(bytes) {
  if (bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) throw new JsonError('its header begins with a byte order mark');
  const { value, items, objects } = parseJson(bytes, 9 * MAX_TENSORS + MAX_NOTES);
  // an entry has at most 9 commas and brackets up to 4 dimensions; the rest is metadata
  if (objects > MAX_TENSORS + 2 || items > 9 * objects + MAX_NOTES)
    throw new JsonError(`its header names too much: ${MAX_TENSORS} tensors is the limit`);
  if (!(value instanceof Map)) throw new JsonError('its header is no JSON object');
  requireCharacters([...value.keys()]);
  return value;
}

function metadataOf(header) {
  const found = header.get('__metadata__') ?? null;
  header.delete('__metadata__');
  if (found === null) return new Map();
  if (!(found instanceof Map) || ![...found.values()].every((value) => typeof value === 'string'))
    throw new JsonError('its __metadata__ is no object of strings');
  requireCharacters([...found].flat());
  return found;
}

function requireCharacters(texts) {
  if (texts.some((text) => LONE.test(text))) throw new JsonError('its header holds half a character');
}

/** One tensor's place. Throws JsonError for an entry that is not one. */
function readEntry(name, entry, size) {
  const shown = `tensor '${name.slice(0, 80)}'`;
  const keys = entry instanceof Map ? [...entry.keys()].sort().join() : '';
  if (keys !== 'data_offsets,dtype,shape') throw new JsonError(`${shown} has no dtype, shape and data_offsets alone`);
  const [dtype, shape, offsets] = ['dtype', 'shape', 'data_offsets'].map((key) => entry.get(key));
  if (!areSizes(shape) || !areSizes(offsets) || offsets.length !== 2)
    throw new JsonError(`${shown} has a shape or data_offsets that are no lists of whole numbers`);
  if (typeof dtype !== 'string' || !Object.hasOwn(SIZES, dtype))
    throw new JsonError(`${shown} has the unsupported dtype ${String(dtype).slice(0, 40)}`);
  const [start, end] = offsets;
  if (start > end || end > BigInt(size)) throw new JsonError(`${shown} claims bytes ${start} to ${end} of ${size}`);
  const wanted = shape.reduce((product, n) => product * n, BigInt(SIZES[dtype]));
  if (wanted !== end - start) throw new JsonError(`${shown} of ${end - start} bytes cannot be ${dtype} of [${shape}]`);
  return { dtype, shape: shape.map(Number), start: Number(start), end: Number(end) };
}

function areSizes(values) {
  if (!Array.isArray(values) || values.length > MAX_DIMENSIONS) return false;
  return values.every((value) => typeof value === 'bigint' && value >= 0n && value < 1n << 63n);
}

/** Data has neither overlaps nor holes nor an end of its own. */
function requireContiguous(entries, size) {
  let at = 0;
  const order = [...entries].sort(([, x], [, y]) => x.start - y.start || x.end - y.end);
  for (const [name, { start, end }] of order) {
    if (start !== at) throw new JsonError(`tensor '${name.slice(0, 80)}' begins at byte ${start} and not at ${at}`);
    at = end;
  }
  if (at !== size) throw new JsonError(`its tensors end at byte ${at} of ${size}`);
}
