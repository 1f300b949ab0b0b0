/** What a name in a stranger's file may be, and what a tensor looks like in a message. */

import { FLOATS } from './safetensors.js';

const MAX_NAME = 512; // characters of a tensor's name
const PRINTABLE = /^[\x20-\x7e]*$/;

/**
 * Whether it can name a tensor: printable ASCII of bounded length. Letters of other scripts only
 * look like those of a base.
 * @param {string} name
 */
export function isName(name) {
  return name.length <= MAX_NAME && PRINTABLE.test(name);
}

/** Whether it can name a module: no part of it is empty or climbs. @param {string} name */
export function isModule(name) {
  return name.split('.').every((part) => part !== '' && !/[/\\]/.test(part));
}

/** The last part of a module's name. @param {string} module */
export function lastOf(module) {
  return module.slice(module.lastIndexOf('.') + 1);
}

/** What speaks against a tensor as a part of an adapter, or nothing. */
export function tensorFault({ dtype, shape }) {
  if (!FLOATS.has(dtype)) return `dtype ${dtype} where floating point is expected`;
  return shape.includes(0) ? `an empty tensor [${shape}]; sharded weights that were not gathered?` : '';
}
