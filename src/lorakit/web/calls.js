/**
 * Tool formats: which one a model uses, and its replies taken apart.
 *
 * A format is recognised by strings that its models' chat templates hold, else by a token that no
 * other format has: the rules of chat/tools.py.
 */

import { DEEPSEEK } from './deepseek.js';
import { FUNCTIONGEMMA, GEMMA4 } from './gemma.js';
import { GENERIC } from './generic.js';
import { HERMES } from './hermes.js';
import { LLAMA3 } from './llama3.js';
import { LLAMA3_FUNCTION } from './llama3_function.js';
import { MISTRAL, MISTRAL11 } from './mistral.js';
import { QWEN3CODER } from './qwen3coder.js';
import { GRANITE, PHI4 } from './tagged_lists.js';
import { LorakitError } from './errors.js';
import { FLAG, checkedOptions, shown, wrong } from './options.js';
import { ReplyReader } from './reading.js';
import { NO_CALLS, takeApart } from './scanning.js';

/** @typedef {import('./scanning.js').ToolFormat} ToolFormat */

const PARSING = { reasons: FLAG, repair: FLAG };

/** Marks of calls that are more than JSON, as a template may write them. */
const MARKS = [
  '<tool', '<|tool', '<｜', '[TOOL', '<TOOL', '<function', 'functools', '<invoke', '<action', '<|python_tag|>',
  '<|channel', '<|START_', '<|action', '<|call', '<start_', '<seed:', '<minimax',
]; // prettier-ignore

/** All of `present` and none of `absent` stand in the template; `token` is in the vocabulary. */
const SIGNS = [
  { format: FUNCTIONGEMMA, present: ['<start_function_call>', '<escape>'], token: '<start_function_call>' },
  { format: GEMMA4, present: ['<|tool_call>', '<|"|>'], token: '<|tool_call>' },
  // Qwen3-Coder's, GLM's and MiniMax's calls are not JSON; nor what Apriel and MiroThinker write.
  { format: HERMES, present: ['<tool_call>', 'arguments'], absent: ['<function=', '<arg_key>', '<invoke', '<tool_calls>', '<use_mcp_tool>'] },
  { format: QWEN3CODER, present: ['<tool_call>', '<function=', '<parameter='] },
  // Functionary's and Nemotron's calls have other forms.
  { format: LLAMA3, present: ['"parameters', '<|start_header_id|>', 'ipython'], absent: ['<function=', '>>>', '<TOOLCALL>'] },
  { format: LLAMA3_FUNCTION, present: ['<function=', '<|start_header_id|>'], absent: ['<parameter='] },
  { format: MISTRAL, present: ['[TOOL_CALLS]'], absent: ['[ARGS]'] },
  { format: MISTRAL11, present: ['[TOOL_CALLS]', '[ARGS]'] },
  { format: PHI4, present: ['<|tool|>', '<|/tool|>', '<|end|>'] },
  { format: DEEPSEEK, present: ['<｜tool▁calls▁begin｜>', '<｜tool▁sep｜>', '```json'] },
  { format: GRANITE, present: ['<|start_of_role|>', '<|tool_call|>'] },
  { format: GENERIC, present: ['tools', '"name', '"arguments', 'JSON'], absent: MARKS },
];

/** Formats by name. @type {Record<string, ToolFormat>} */
export const FORMATS = Object.fromEntries(SIGNS.map(({ format }) => [format.name, format]));

/** @param {string} name @returns {ToolFormat} */
export function getFormat(name) {
  if (typeof name === 'string' && Object.hasOwn(FORMATS, name)) return FORMATS[name];
  throw new LorakitError(`there is no tool format ${shown(name)}`, {
    code: 'parameter_invalid',
    hint: `known: ${Object.keys(FORMATS).join(', ')}`,
  });
}

/**
 * @param {string | null} template @param {(token: string) => boolean} [hasToken]
 * @returns {ToolFormat | null} null where none is recognised
 */
export function detectFormat(template, hasToken = () => false) {
  if (typeof (template ?? '') !== 'string') throw wrong(`a chat template is a text or null, found ${shown(template)}`);
  if (typeof hasToken !== 'function') throw wrong(`hasToken is a function, found ${shown(hasToken)}`);
  const fits = ({ present, absent = [] }) =>
    present.every((mark) => template.includes(mark)) && !absent.some((mark) => template.includes(mark));
  const found = SIGNS.find((signs) => template && fits(signs)) ?? SIGNS.find(({ token }) => token && hasToken(token));
  return found ? found.format : null;
}

/**
 * A reply in its parts; without calls where the model has no known format. reasons: whether it
 * begins within reasoning; repair: whether calls that cannot be read are mended.
 * @param {string} reply @param {ToolFormat | null} format
 * @param {boolean | {reasons?: boolean, repair?: boolean}} [options] true is { reasons: true }
 */
export function parseReply(reply, format, options = {}) {
  const chosen = typeof options === 'boolean' ? { reasons: options } : checkedOptions(options, PARSING, 'the options of parseReply');
  if (typeof reply !== 'string') throw wrong(`a reply is a text, found ${shown(reply)}`);
  checkFormat(format);
  return format ? format.parse(reply, chosen) : takeApart(reply, NO_CALLS, chosen);
}

/**
 * What reads a reply piece by piece, as parseReply reads all of it.
 * @param {ToolFormat | null} format @param {{reasons?: boolean, repair?: boolean}} [options]
 */
export function readerOf(format, options) {
  checkFormat(format);
  return new ReplyReader(format ? format.syntax : NO_CALLS, checkedOptions(options, PARSING, 'the options of readerOf'));
}

function checkFormat(format) {
  if (format === null || (typeof format?.parse === 'function' && format.syntax)) return;
  throw wrong(`a tool format is what getFormat gives, or null; found ${shown(format)}`);
}
