/**
 * The random numbers of numpy's default generator, so that a seed draws the same in a page as in
 * Python: PCG64 (O'Neill 2014, XSL-RR 128/64) seeded by numpy's SeedSequence.
 */

const MASK64 = (1n << 64n) - 1n;
const MASK128 = (1n << 128n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;
const POOL = 4; // words of 32 bits

/** Numbers in [0, 1). @param {number | null} seed null: not repeatable @returns {() => number} */
export function uniform(seed) {
  if (seed === null || seed === undefined) return Math.random;
  const words = stateOf(BigInt(seed));
  const initial = (words[0] << 64n) | words[1];
  const increment = ((((words[2] << 64n) | words[3]) << 1n) | 1n) & MASK128;
  const step = (state) => (state * MULTIPLIER + increment) & MASK128;
  let state = step((step(0n) + initial) & MASK128);
  return () => {
    state = step(state);
    const high = state >> 64n;
    const mixed = high ^ (state & MASK64);
    const turn = high >> 58n;
    const value = ((mixed >> turn) | (mixed << (64n - turn))) & MASK64;
    return Number(value >> 11n) / 2 ** 53;
  };
}

/** Four words of 64 bits from a seed. */
function stateOf(seed) {
  const pool = mixedPool(seed);
  const hash = hasher(0x8b51f9dd, 0x58f38ded);
  const words = Array.from({ length: 8 }, (_, i) => BigInt(hash(pool[i % POOL])));
  return [0, 2, 4, 6].map((i) => words[i] | (words[i + 1] << 32n));
}

function mixedPool(seed) {
  const entropy = [];
  for (let rest = seed; rest || !entropy.length; rest >>= 32n) entropy.push(Number(rest & 0xffffffffn));
  const hash = hasher(0x43b0d7e5, 0x931e8875);
  const pool = Array.from({ length: POOL }, (_, i) => hash(entropy[i] ?? 0));
  for (let from = 0; from < POOL; from += 1)
    for (let to = 0; to < POOL; to += 1) if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
  for (const word of entropy.slice(POOL)) for (let to = 0; to < POOL; to += 1) pool[to] = mix(pool[to], hash(word));
  return pool;
}

/** A hash of words whose constant moves on with every use. */
function hasher(initial, multiplier) {
  let constant = initial;
  return (value) => {
    let mixed = value ^ constant;
    constant = Math.imul(constant, multiplier);
    mixed = Math.imul(mixed, constant);
    return (mixed ^ (mixed >>> 16)) >>> 0;
  };
}

function mix(x, y) {
  const mixed = (Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y)) | 0;
  return (mixed ^ (mixed >>> 16)) >>> 0;
}
