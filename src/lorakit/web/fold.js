/**
 * Factors in the layout of a graph's inputs: A [in, r] and B [r, out] with alpha / r in it, module by
 * module in one buffer, as the data of a web file in float32.
 */

import { LorakitError } from './errors.js';
import { toFloat32 } from './safetensors.js';

/**
 * The factors of deltas, in their order.
 * @param {import('./adapter.js').Delta[]} deltas
 * @returns {{tensors: Map<string, import('./adapter.js').Factors>, values: Float32Array}} values: of
 *   all of them, which the tensors are views of
 */
export function fold(deltas) {
  const values = room(deltas.reduce((sum, { rank, in: wide, out }) => sum + rank * (wide + out), 0));
  const tensors = new Map();
  let at = 0;
  const next = (length) => values.subarray(at, (at += length));
  for (const { module, a, b, rank, in: wide, out, scale, turned } of deltas) {
    const factors = { a: next(rank * wide), b: next(rank * out), rank };
    tensors.set(module, factors);
    const place = turned ? turn : copy;
    place(toFloat32(a), factors.a, { rows: rank, columns: wide, factor: 1 });
    place(toFloat32(b), factors.b, { rows: out, columns: rank, factor: Math.fround(scale) });
  }
  return { tensors, values };
}

/** Whether all are finite: a loop without calls or branches, for adapters have millions of values. */
export function allFinite(values) {
  let [x, y] = [0, 0]; // two sums, neither of which waits for the other
  const even = values.length - (values.length % 2);
  for (let i = 0; i < even; i += 2) {
    x += values[i] * 0;
    y += values[i + 1] * 0;
  }
  if (even < values.length) x += values[even] * 0;
  return x + y === 0;
}

function room(length) {
  try {
    return new Float32Array(length);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new LorakitError(`the adapter has ${length} values, more than fit into memory here`, { code: 'out_of_memory' });
  }
}

function copy(values, target, { factor }) {
  if (factor === 1) target.set(values);
  else for (let i = 0; i < values.length; i += 1) target[i] = values[i] * factor;
}

/** [rows, columns] as [columns, rows]: four rows at a time, whose lines the caches can hold. */
function turn(values, target, { rows, columns, factor }) {
  const whole = rows - (rows % 4);
  for (let row = 0; row < whole; row += 4) {
    const [second, third, fourth] = [columns, 2 * columns, 3 * columns];
    let from = row * columns;
    for (let to = row; to < target.length; to += rows) {
      target[to] = values[from] * factor;
      target[to + 1] = values[from + second] * factor;
      target[to + 2] = values[from + third] * factor;
      target[to + 3] = values[from + fourth] * factor;
      from += 1;
    }
  }
  for (let row = whole; row < rows; row += 1)
    for (let column = 0; column < columns; column += 1) target[column * rows + row] = values[row * columns + column] * factor;
}
