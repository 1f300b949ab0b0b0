/**
 * What `lorakit convert --to web` writes: one safetensors file whose tensors are named as the
 * inputs of an exported graph, A [in, r] and B [r, out] with the scale in it; as formats/web.py.
 */

import { canDigest, sha256 } from './digest.js';
import { firstOf, invalid, unsupported } from './errors.js';
import { isModule, isName } from './names.js';
import { MAX_HEADER, readSafetensors } from './safetensors.js';

const FORMAT = 'lorakit-web';
const VERSION = '1';
const [A, B] = ['.lora_A', '.lora_B'];
const DTYPES = new Set(['F32', 'F16', 'BF16']);
const HINT = 'download it again, or convert what it was made of again';

/** Whether a file is of this kind, by its header. @param {Uint8Array} content */
export function isWebFile(content) {
  if (content.length < 8) return false;
  const length = new DataView(content.buffer, content.byteOffset).getBigUint64(0, true);
  if (length > MAX_HEADER) return false;
  return new TextDecoder('latin1').decode(content.subarray(8, 8 + Number(length))).includes(`"${FORMAT}"`);
}

/**
 * @param {Uint8Array} content @param {string} where its name, for messages
 * @returns {Promise<import('./adapter.js').Read>}
 */
export async function readWebFile(content, where) {
  const { tensors, metadata, data } = readSafetensors(content, where);
  if (metadata.get('format') !== FORMAT) throw unsupported(`${where} is a safetensors file, but no ${FORMAT}`);
  const version = metadata.get('version');
  if (version !== VERSION)
    throw unsupported(`${where} is of version ${String(version).slice(0, 40)} of ${FORMAT}`, {
      hint: `this lorakit reads version ${VERSION}`,
    });
  const halves = halvesOf(tensors, where);
  const faults = [...halves].flatMap(([module, pair]) => pairFaults(module, pair));
  if (!faults.length) faults.push(...(await contradictions(metadata, halves, data)));
  if (faults.length) throw invalid(`the web adapter ${where} does not agree with itself`, { items: firstOf(faults), hint: HINT });
  const deltas = [...halves].map(([module, pair]) => {
    const [a, b] = [pair.get(A), pair.get(B)];
    return { module, a, b, rank: a.shape[1], in: a.shape[0], out: b.shape[1], scale: 1, turned: false };
  });
  const said = (name) => metadata.get(name) ?? '';
  return {
    deltas, beyond: [], base: said('base'), baseName: said('base_name'), name: said('adapter'), digest: said('digest'),
    unchecked: !canDigest(),
  }; // prettier-ignore
}

/**
 * The beginning of such a file in float32, whose data are the factors as they stand in `tensors`.
 * @param {Map<string, import('./adapter.js').Factors>} tensors
 * @param {{rank: number, digest: string, base: string, baseName: string, name: string}} facts
 *   digest: of the data
 */
export function webHead(tensors, { rank, digest, base, baseName, name }) {
  const said = { format: FORMAT, version: VERSION, rank: String(rank), digest, base, base_name: baseName, adapter: name };
  const header = { __metadata__: said };
  let at = 0;
  for (const [module, { a, b, rank: own }] of tensors)
    for (const [end, part, shape] of [[A, a, [a.length / own, own]], [B, b, [own, b.length / own]]])
      header[module + end] = { dtype: 'F32', shape, data_offsets: [at, (at += part.byteLength)] };
  const text = new TextEncoder().encode(JSON.stringify(header));
  const head = new Uint8Array(8 + Math.ceil(text.length / 8) * 8).fill(0x20);
  head.set(text, 8);
  new DataView(head.buffer).setBigUint64(0, BigInt(head.length - 8), true);
  return head;
}

function halvesOf(tensors, where) {
  const halves = new Map();
  for (const [name, tensor] of tensors) {
    const end = [A, B].find((part) => name.endsWith(part));
    const module = end ? name.slice(0, -end.length) : '';
    if (!isName(module) || !isModule(module))
      throw unsupported(`${where} names a graph input '${name.slice(0, 120)}', no part of a linear LoRA layer`, {
        hint: `expected <module>${A} and <module>${B}`,
      });
    halves.set(module, (halves.get(module) ?? new Map()).set(end, tensor));
  }
  return halves;
}

function pairFaults(module, pair) {
  if (pair.size !== 2) return [`${module}: has only ${[...pair.keys()][0].slice(1)}`];
  const [a, b] = [pair.get(A), pair.get(B)];
  const odd = [a, b].find(({ dtype }) => !DTYPES.has(dtype));
  if (odd) return [`${module}: dtype ${odd.dtype}, expected F32, F16 or BF16`];
  const fits = a.shape.length === 2 && b.shape.length === 2 && a.shape[1] === b.shape[0];
  if (fits && ![...a.shape, ...b.shape].includes(0)) return [];
  return [`${module}: A [${a.shape}] and B [${b.shape}], expected [in, r], [r, out]`];
}

/** What the metadata says and the tensors do not bear out. */
async function contradictions(metadata, halves, data) {
  if (!halves.size) return ['no tensor at all: the adapter does nothing'];
  const faults = [];
  const said = (name) => String(metadata.get(name)).slice(0, 90);
  const rank = [...halves.values()].reduce((most, pair) => Math.max(most, pair.get(A).shape[1]), 0);
  if (metadata.get('rank') !== String(rank)) faults.push(`rank: expected ${rank}, by its tensors, found ${said('rank')}`);
  const digest = canDigest() ? `sha256:${await sha256(data)}` : metadata.get('digest');
  if (metadata.get('digest') !== digest) faults.push(`digest: expected ${digest}, by its tensors, found ${said('digest')}`);
  return faults;
}
