/** Conversions between float32 and the two-byte floats of adapter files. */

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/**
 * The bits of float16 numbers, rounded to the nearest, ties to even; what is too large is infinite.
 * @param {Float32Array} values @returns {Uint16Array}
 */
export function toFloat16(values) {
  const out = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i += 1) {
    float[0] = values[i];
    out[i] = half(bits[0]);
  }
  return out;
}

/** @param {number} word a float32's bits @returns {number} */
function half(word) {
  const sign = (word >>> 16) & 0x8000;
  const rest = word & 0x7fffffff;
  if (rest > 0x7f800000) return sign | 0x7e00;
  if (rest >= 0x477ff000) return sign | 0x7c00; // rounds to 65536 or more
  if (rest >= 0x38800000) return sign | ((rest - 0x38000000 + 0xfff + ((rest >>> 13) & 1)) >>> 13);
  if (rest <= 0x33000000) return sign; // rounds to zero
  const shift = 126 - (rest >>> 23);
  const mantissa = (rest & 0x7fffff) | 0x800000;
  return sign | ((mantissa + (1 << (shift - 1)) - 1 + ((mantissa >>> shift) & 1)) >>> shift);
}

/** @param {Uint16Array} halves @returns {Float32Array} */
export function fromFloat16(halves) {
  const table = (every ??= everyHalf());
  const out = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i += 1) out[i] = table[halves[i]];
  return out;
}

/** @type {Float32Array | undefined} */
let every;

/** The float32 of each of the 65536 float16s: looking it up is several times as fast. */
function everyHalf() {
  const out = new Float32Array(1 << 16);
  const words = new Uint32Array(out.buffer);
  for (let i = 0; i < out.length; i += 1) {
    const sign = (i & 0x8000) << 16;
    const exponent = (i >>> 10) & 31;
    const mantissa = i & 0x3ff;
    if (exponent === 0) out[i] = (sign ? -1 : 1) * mantissa * 2 ** -24;
    else words[i] = sign | ((exponent === 31 ? 255 : exponent + 112) << 23) | (mantissa << 13);
  }
  return out;
}

/** @param {Uint16Array} halves @returns {Float32Array} */
export function fromBfloat16(halves) {
  const words = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i += 1) words[i] = halves[i] << 16;
  return new Float32Array(words.buffer);
}
