/**
 * What a request says of calls, beside its tools. A page has nothing that holds a model to a schema:
 * what it cannot enforce it refuses, with capability_missing.
 */

import { LorakitError } from './errors.js';
import { FLAG, shown, wrong } from './options.js';

const FREE = ['auto', 'none', 'free'];
const WORDS = '"auto", "none", "free", "required", or the name of a function';
const HINT = 'in the page calls are as the model writes them (toolChoice: "auto"); lorakit serve and the Python library can enforce it';

/**
 * silent: no call may be written. parallel: several may. repair: calls that cannot be read are mended.
 * @typedef {{silent: boolean, parallel: boolean, repair: boolean}} ToolUse
 */

/**
 * toolChoice: null, 'auto' and 'free' leave calls as the model writes them; 'none' has it write none.
 * @param {{name: string}[] | null} functions those of the tools
 * @param {{toolChoice?: any, parallelToolCalls?: any, responseFormat?: any, repair?: any}} options
 * @returns {ToolUse}
 */
export function toolUse(functions, { toolChoice = null, parallelToolCalls = true, responseFormat = null, repair = false }) {
  for (const [name, value] of Object.entries({ parallelToolCalls, repair }))
    if (!FLAG[1](value)) throw wrong(`${name} must be ${FLAG[0]}, found ${shown(value)}`);
  checkFormat(responseFormat);
  const choice = wordOf(toolChoice);
  if (choice !== null && !FREE.includes(choice)) refuse(choice, functions);
  return { silent: choice === 'none' && functions !== null, parallel: parallelToolCalls, repair };
}

/** A choice as a word or a function's name; OpenAI says a function as an object. */
function wordOf(choice) {
  const word = choice?.type === 'function' ? choice.function?.name : choice;
  if (word === null || (typeof word === 'string' && word)) return word;
  throw new LorakitError(`toolChoice is null or a word, found ${shown(choice)}`, { code: 'parameter_invalid', hint: WORDS });
}

function refuse(choice, functions) {
  const names = (functions ?? []).map(({ name }) => name);
  if (!names.length) throw wrong(`toolChoice is ${shown(choice)}, and there are no tools`);
  if (choice !== 'required' && !names.includes(choice))
    throw new LorakitError(`toolChoice is ${shown(choice)}: there is no such tool`, { code: 'parameter_invalid', hint: `${WORDS}: ${names.join(', ')}` });
  throw new LorakitError(`toolChoice ${shown(choice)} cannot be enforced in a page`, { code: 'capability_missing', hint: HINT });
}

function checkFormat(format) {
  const type = format === null ? 'text' : format?.type;
  if (!['text', 'json_object', 'json_schema'].includes(type))
    throw wrong(`responseFormat is {type: 'text'}, {type: 'json_object'} or {type: 'json_schema', ...}, found ${shown(format)}`);
  if (type === 'text') return;
  throw new LorakitError(`responseFormat ${shown(type)} cannot be enforced in a page`, { code: 'capability_missing', hint: HINT });
}
