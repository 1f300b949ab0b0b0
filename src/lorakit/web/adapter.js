/**
 * An adapter's files as what the inputs of a model take: PEFT and MLX folders, and web files.
 *
 * A file is read as lorakit's Python side reads it, with the same error codes; then what inputs
 * cannot say is refused, and names, shapes and values are compared with the model's (fold.js
 * brings them into its layout).
 */

import { canDigest, sha256 } from './digest.js';
import { LorakitError, firstOf, invalid, unsupported } from './errors.js';
import { allFinite, fold } from './fold.js';
import { JsonError, parseJson } from './json.js';
import { WEIGHTS as MLX_WEIGHTS, readMlx } from './mlx.js';
import { isMlxConfig } from './mlx_config.js';
import { isSeeing, renamings } from './names.js';
import { shown, wrong } from './options.js';
import { STAGED, readPeft } from './peft.js';
import { refusePointer, valuesOf } from './safetensors.js';
import { isWebFile, readWebFile } from './web_file.js';

export const CONFIG = 'adapter_config.json';
export const LEFT_OUT = 'adapter_read'; // the code of a warning: what could not act was left out
const MAX_JSON = 16 << 20; // bytes
const HEAD = 'lm_head';
const FROM_PYTHON = 'no exported model holds invocation tokens, merged or not (lorakit export -a refuses them too): run it from Python, lorakit run BASE -a ADAPTER';

/**
 * @typedef {{module: string, in: number, out: number}} Module a linear that takes adapters
 * @typedef {{module: string, a: import('./safetensors.js').Tensor, b: import('./safetensors.js').Tensor,
 *   rank: number, in: number, out: number, scale: number, turned: boolean}} Delta turned: A is
 *   [rank, in] and B [out, rank], else A is [in, rank] and B [rank, out]
 * @typedef {{deltas: Delta[], beyond: string[], base: string, baseName: string, name?: string,
 *   digest?: string, unchecked?: boolean,
 *   lacking?: (modules: string[] | null, renamed: Map<string, string>) => string[]}} Read beyond: what
 *   no input says, one line each; lacking: what the config promises and the file lacks, given what a
 *   model calls its linears and which names differ from the file's
 * @typedef {{a: Float32Array, b: Float32Array, rank: number}} Factors a: [in, rank], b: [rank, out]
 * @typedef {{name: string, digest: string, base: string, baseName: string, rank: number,
 *   scale: number, bytes: number, tensors: Map<string, Factors>, values: Float32Array,
 *   warnings: {code: string, message: string}[]}} Adapter base: the fingerprint of its base, where
 *   a tool recorded it; digest: what its web file in float32 has; values: all factors
 */

/**
 * @param {Map<string, ArrayBuffer | Uint8Array>} files by their names in the folder, or one web file
 * @param {{modules?: Module[], scale?: number, name?: string}} [options] modules: what the model
 *   takes; without them nothing is compared. name: of the adapter, also in messages
 * @returns {Promise<Adapter>}
 * Throws LorakitError: source_not_found, format_invalid, format_unsupported, pickle_refused,
 * adapter_incomplete, adapter_invalid, adapter_mismatch.
 */
export async function readAdapter(files, { modules, scale = 1, name } = {}) {
  const given = name ?? files.name ?? '';
  const where = given || 'the adapter';
  const hint = `merge it into the base: lorakit export BASE -a ${given || 'ADAPTER'} --to onnx -o OUT`;
  const read = fitted(forText(await readFiles(bytesOf(files), where, hint), modules), modules, where);
  refuseBeyond(read, modules, hint);
  const order = [...read.deltas].sort((x, y) => (x.module < y.module ? -1 : 1));
  const { tensors, values } = fold(order);
  const finite = allFinite(values);
  if (modules) requireFit(read, modules, finite ? [] : valueFaults(read.deltas, tensors));
  if (!finite) for (const delta of order) refuseOverflow(delta, tensors.get(delta.module));
  return {
    name: given || read.name || 'adapter',
    digest: read.digest ?? (canDigest() ? `sha256:${await sha256(new Uint8Array(values.buffer))}` : ''),
    base: read.base,
    baseName: read.baseName,
    rank: order.reduce((most, delta) => Math.max(most, delta.rank), 0),
    scale,
    bytes: values.byteLength,
    tensors,
    values,
    warnings: [...(files.warnings ?? []), ...(read.warnings ?? []), ...(read.unchecked ? [unchecked(where)] : [])],
  };
}

/**
 * Beside a model of text, without what is for a part that sees or hears: it cannot act. What is for
 * nothing else stays as it is, and does not fit.
 * @returns {Read & {warnings?: {code: string, message: string}[]}}
 */
function forText(read, modules) {
  const sees = (line) => isSeeing(line.split(': ', 1)[0]);
  const names = [...read.deltas.map(({ module }) => module), ...read.beyond.map((line) => line.split(': ', 1)[0])];
  const seeing = new Set(names.filter(isSeeing));
  const others = names.filter((name) => name !== STAGED && !isSeeing(name));
  if (!modules || !seeing.size || !others.length) return read;
  const kinds = new Map();
  for (const kind of [...seeing].map((name) => name.replace(/\.\d+(?=\.|$)/g, '.N'))) kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  const named = [...kinds].map(([kind, count]) => (count > 1 ? `${kind} (${count})` : kind));
  const message = `${seeing.size} parts for what sees are left out, as they cannot act on text: ${named.join(', ')}`;
  return {
    ...read,
    deltas: read.deltas.filter(({ module }) => !isSeeing(module)),
    beyond: read.beyond.filter((line) => !sees(line)),
    warnings: [{ code: LEFT_OUT, message }],
  };
}

/** With its modules called as the model calls them, where only a wrapper is between; whole. */
function fitted(read, modules, where) {
  if (!read.lacking) return read;
  const known = modules?.map(({ module }) => module) ?? null;
  const held = read.deltas.map(({ module }) => module);
  const renamed = known ? renamings(held, [...known, HEAD]) : new Map();
  const deltas = read.deltas.map((delta) => ({ ...delta, module: renamed.get(delta.module) ?? delta.module }));
  const lacking = read.lacking(known, renamed);
  const shapes = new Map(modules?.map((shape) => [shape.module, shape]));
  // beside a model, that it is of another one, or beyond any inputs, is what is to be said
  const belongs = !modules || (!read.beyond.length && deltas.every((delta) => !misfits(delta, shapes.get(delta.module)).length));
  if (lacking.length && belongs)
    throw new LorakitError(`${where} is an incomplete save: its config promises more than the file holds`, {
      code: 'adapter_incomplete',
      items: firstOf(lacking),
      hint: 'save or download it again',
    });
  return { ...read, deltas };
}

function unchecked(where) {
  return { code: 'capability_missing', message: `the digest of ${where} is not checked: this page is neither https nor local` };
}

/** @returns {Map<string, Uint8Array>} */
function bytesOf(files) {
  const odd = [...files].find(([name, content]) => typeof name !== 'string' || !(ArrayBuffer.isView(content) || content instanceof ArrayBuffer));
  if (odd) throw wrong(`files are bytes by their names, found ${shown(odd[1])} by ${shown(odd[0])}`);
  const bytes = (content) =>
    ArrayBuffer.isView(content) ? new Uint8Array(content.buffer, content.byteOffset, content.byteLength) : new Uint8Array(content);
  return new Map([...files].map(([name, content]) => [name, bytes(content)]));
}

/** @returns {Promise<Read>} */
async function readFiles(files, where, hint) {
  const text = files.get(CONFIG);
  if (!text) return readOneFile(files, where);
  const config = readObject(text, `${where}/${CONFIG}`);
  if (config.has('peft_type') || (config.has('r') && config.has('lora_alpha'))) return readPeft(files, config, where, hint);
  if (files.has(MLX_WEIGHTS) && isMlxConfig(config)) return readMlx(files, config, where, hint);
  throw unsupported(`${where} is an adapter folder of an unknown kind, not an adapter that lorakit can read`, {
    hint: 'a page reads PEFT and MLX folders, and web files',
  });
}

/** The JSON object of a config. @returns {Map<string, any>} */
function readObject(content, where) {
  if (content.length > MAX_JSON) throw invalid(`${where} is larger than ${MAX_JSON} bytes`, { hint: 'this is no adapter config' });
  refusePointer(content, where);
  let value;
  try {
    ({ value } = parseJson(content));
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    throw invalid(`${where} is not valid JSON: ${error.message}`);
  }
  if (!(value instanceof Map)) throw invalid(`${where} must hold a JSON object`, { found: Array.isArray(value) ? 'a list' : typeof value });
  return value;
}

/** A web file; anything else is named. */
async function readOneFile(files, where) {
  const inside = [...files.keys()].filter((name) => name.endsWith(`/${CONFIG}`)).map((name) => name.slice(0, -CONFIG.length - 1));
  if (inside.length) throw unsupported(`${where} holds named adapters in folders of their own`, { items: inside, hint: `choose one: ${inside[0]}` });
  if (!files.size) throw notThere(where);
  const [[name, content]] = files;
  refusePointer(content, `${where}/${name}`);
  const other = files.size > 1 ? folderKind([...files.keys()]) : kindOf(content);
  if (other === null) throw notThere(where);
  if (!other) return readWebFile(content, where);
  throw unsupported(`${where} is ${other}, not an adapter that a page reads`, {
    found: name,
    hint: `a page reads PEFT and MLX folders, and web files: lorakit convert ${where} OUT.safetensors --to web`,
  });
}

function notThere(where) {
  return new LorakitError(`there is no adapter at ${where}: no ${CONFIG}`, {
    code: 'source_not_found',
    hint: 'give a PEFT or MLX folder, or a web file',
  });
}

/** What a folder without the config of an adapter is, or null. */
function folderKind(names) {
  const some = (end) => names.some((name) => name.endsWith(end));
  if (names.includes(MLX_WEIGHTS)) return `an MLX adapter without its ${CONFIG}`;
  if (names.includes('config.json') && some('.safetensors')) return 'a full model';
  if (some('.gguf')) return 'a folder of GGUF files';
  return some('.onnx_adapter') ? 'a folder of ONNX Runtime adapters' : null;
}

/** What a file is that is no web file, as Python tells them apart; else nothing. */
function kindOf(content) {
  if (isWebFile(content)) return '';
  const head = String.fromCharCode(...content.subarray(0, 9));
  if (head.startsWith('GGUF')) return 'a GGUF file';
  if (head.startsWith('PK\x03\x04') || head.startsWith('\x80')) return 'a zip or a pickle, which can run code when it is opened,';
  return head[8] === '{' ? `a safetensors file without its ${CONFIG} beside it` : 'a file of an unknown kind';
}

/** What inputs cannot say is refused, all of it at once. */
function refuseBeyond({ deltas, beyond }, modules, hint) {
  const headless = !modules?.some(({ module }) => module === HEAD);
  const head = headless && deltas.some(({ module }) => module === HEAD) ? [`${HEAD}: the head, which has no inputs in an exported graph`] : [];
  const all = [...beyond, ...head];
  const staged = all.some((item) => item.startsWith(STAGED)); // merged, it would act on all tokens
  if (all.length) throw unsupported("a model's inputs cannot express this adapter exactly", { items: firstOf(all), hint: staged ? FROM_PYTHON : hint });
}

/** Every name, shape and value that does not fit, at once. */
function requireFit({ deltas, baseName }, modules, badValues) {
  const known = new Map(modules.map((shape) => [shape.module, shape]));
  const missing = deltas.filter(({ module }) => !known.has(module));
  const names = missing.length === deltas.length ? foreign(missing[0], modules) : deltas.flatMap((delta) => misfits(delta, known.get(delta.module)));
  const faults = [...names, ...badValues];
  if (faults.length)
    throw new LorakitError('the adapter does not fit the base', {
      code: 'adapter_mismatch',
      items: firstOf(faults),
      hint: `open the base that the adapter was trained on${baseName ? `: ${baseName}` : ''}`,
    });
}

function foreign({ module }, modules) {
  const wanted = modules.length ? `modules such as ${modules[0].module}` : 'a model with inputs for adapters';
  return [`architecture: expected ${wanted}, found none of them, but such as ${module}`];
}

function misfits(delta, shape) {
  if (!shape) return [`${delta.module}: expected a module of this model, found a delta of rank ${delta.rank}`];
  if (delta.in === shape.in && delta.out === shape.out) return [];
  return [`${delta.module}: expected a delta of [${shape.out}, ${shape.in}] (out, in), found [${delta.out}, ${delta.in}]`];
}

/** Tensors whose own values, before any scale, are not finite. */
function valueFaults(deltas, tensors) {
  return deltas.flatMap(({ module, a, b }) =>
    [['A', a, tensors.get(module).a], ['B', b, tensors.get(module).b]]
      .filter(([, tensor, values]) => !allFinite(values) && !allFinite(valuesOf(tensor)))
      .map(([part]) => `${module}.${part}: expected finite values, found NaN or infinity (the training diverged, or the file is damaged)`),
  );
}

/** Finite values that float32 cannot hold once the scale is in them. */
function refuseOverflow({ module, a, b, scale }, factors) {
  for (const [tensor, values] of [[a, factors.a], [b, factors.b]])
    if (!allFinite(values) && allFinite(valuesOf(tensor))) throw invalid(`${module}: A, or B times its scale ${scale}, is too large`);
}
