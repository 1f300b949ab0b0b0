/**
 * An onnxruntime session as rows of tokens: what its inputs are called, and one run of it.
 *
 * It knows nothing of text, sampling or adapter files. Rows are padded on the right; their lengths
 * are the row sums of the attention mask, which is what GroupQueryAttention reads.
 */

import { LorakitError } from './errors.js';

const KNOWN = new Set(['input_ids', 'attention_mask', 'position_ids', 'num_logits_to_keep', 'adapter']);
const PAST = /^past_key_values\.\d+\.(?:key|value)$/;
const LORA = /^(.+)\.lora_A$/;
const COMMAND = 'lorakit export BASE --to onnx --adapters dynamic -o OUT';

/** @typedef {{module: string, in: number, out: number}} Module a linear that adapters may change */

export class Session {
  /**
   * @param {any} session onnxruntime's InferenceSession
   * @param {{Tensor: any, own: boolean, gpu: boolean}} facts Tensor: transformers.js's class; own:
   *   whether lorakit exported the model, so that rows of different lengths may run together
   */
  constructor(session, { Tensor, own, gpu }) {
    this.session = session;
    this.own = own;
    this.gpu = gpu;
    this.tensorClass = Tensor;
    this.inputs = new Map(session.inputMetadata.map((input) => [input.name, input]));
    this.past = [...this.inputs.values()].filter(({ name }) => PAST.test(name));
    this.refuseUnknown();
    /** @type {Module[]} */
    this.modules = this.adapterModules();
    const lora = this.modules.length ? this.inputs.get(`${this.modules[0].module}.lora_A`) : null;
    this.loraType = lora ? lora.type : 'float32';
  }

  /** A tensor of onnxruntime's. In Node, Float16Array has to be given as its bits. */
  tensor(type, data, dims) {
    const tensor = new this.tensorClass(type, data, dims).ort_tensor;
    if (typeof process !== 'undefined' && typeof Float16Array !== 'undefined' && tensor.cpuData instanceof Float16Array)
      tensor.cpuData = new Uint16Array(tensor.cpuData.buffer, tensor.cpuData.byteOffset, tensor.cpuData.length);
    return tensor;
  }

  /** The KV of no tokens, for so many rows. */
  emptyPast(rows) {
    return Object.fromEntries(
      this.past.map(({ name, type, shape }) => {
        const Data = type === 'float16' ? Uint16Array : Float32Array;
        return [name, this.tensor(type, new Data(0), [rows, shape[1], 0, shape[3]])];
      }),
    );
  }

  /**
   * One run. tokens: as many for each row; lengths: of each row after it, padding not counted.
   * @param {{tokens: number[][], lengths: number[], width: number, past: object, keep: number,
   *   lora: object}} step width: of the mask; keep: positions whose logits are wanted, from the end
   * @returns {Promise<{logits: Float32Array, vocabulary: number, past: object}>}
   *   logits: [rows, keep, vocabulary]
   */
  async run({ tokens, lengths, width, past, keep, lora }) {
    const rows = tokens.length;
    const count = tokens[0].length;
    const ids = BigInt64Array.from(tokens.flat(), BigInt);
    const mask = new BigInt64Array(rows * width);
    lengths.forEach((length, row) => mask.fill(1n, row * width, row * width + length));
    const feeds = {
      input_ids: this.tensor('int64', ids, [rows, count]),
      attention_mask: this.tensor('int64', mask, [rows, width]),
      ...past,
      ...lora,
    };
    if (this.inputs.has('num_logits_to_keep')) feeds.num_logits_to_keep = this.tensor('int64', [BigInt(keep)], []);
    if (this.inputs.has('position_ids')) feeds.position_ids = this.positions(lengths, count);
    const outputs = await this.call(feeds);
    const { logits } = outputs;
    const vocabulary = logits.dims[2];
    const data = this.lastLogits(logits, rows, keep);
    const next = Object.fromEntries(this.past.map(({ name }) => [name, outputs[presentOf(name)]]));
    return { logits: data, vocabulary, past: next };
  }

  /** Frees what is on the GPU; elsewhere the collector does. */
  release(past) {
    for (const tensor of Object.values(past)) if (tensor.location === 'gpu-buffer') tensor.dispose();
  }

  async call(feeds) {
    try {
      return await this.session.run(feeds);
    } catch (error) {
      const said = String(error?.message ?? error);
      const memory = /memory|bad_alloc|allocat/i.test(said);
      throw new LorakitError(`the model failed to run: ${said.slice(0, 500)}`, {
        code: memory ? 'out_of_memory' : 'engine_failed',
        hint: memory ? 'use a smaller form (q8, q4), a shorter prompt or fewer rows' : '',
      });
    }
  }

  /** The wanted positions' logits as float32; a model that cannot choose them gives all. */
  lastLogits(logits, rows, keep) {
    const [, kept, vocabulary] = logits.dims;
    const data = logits.type === 'float32' ? logits.data : Float32Array.from(logits.data);
    if (kept === keep) return data;
    const wanted = new Float32Array(rows * keep * vocabulary);
    for (let row = 0; row < rows; row += 1) {
      const end = (row + 1) * kept * vocabulary;
      wanted.set(data.subarray(end - keep * vocabulary, end), row * keep * vocabulary);
    }
    return wanted;
  }

  positions(lengths, count) {
    const data = lengths.flatMap((length) => Array.from({ length: count }, (_, i) => BigInt(length - count + i)));
    return this.tensor('int64', BigInt64Array.from(data), [lengths.length, count]);
  }

  adapterModules() {
    const found = [];
    for (const { name, shape } of this.inputs.values()) {
      const module = LORA.exec(name)?.[1];
      const b = module && this.inputs.get(`${module}.lora_B`);
      if (b) found.push({ module, in: shape[1], out: b.shape[2] });
    }
    return found;
  }

  refuseUnknown() {
    const unknown = [...this.inputs.keys()].filter((name) => !KNOWN.has(name) && !PAST.test(name) && !/\.lora_[AB]$/.test(name));
    if (!this.inputs.has('input_ids') || !this.past.length || unknown.length)
      throw new LorakitError('this model is no decoder with a KV cache that lorakit can run', {
        code: 'capability_missing',
        items: unknown.map((name) => `an input that is not known: ${name}`),
        hint: `export one with: ${COMMAND}`,
      });
  }
}

function presentOf(name) {
  return name.replace('past_key_values', 'present');
}
