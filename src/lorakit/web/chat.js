/**
 * Dialogue: a model's chat template and tool format together, from messages to tokens and back.
 *
 * The template is rendered by the tokenizer of transformers.js; what is said about messages and
 * tools is what Python says (chat/messages.py).
 */

import { LorakitError } from './errors.js';
import { detectFormat, getFormat, parseReply } from './calls.js';
import { shown } from './options.js';
import { Spelled, marksOf } from './spelled.js';
import { opensReasoning } from './tags.js';

const REASONING = ['reasoning_content', 'thinking', 'reasoning'];
export class Dialogue {
  /**
   * @param {any} tokenizer of transformers.js
   * @param {{toolFormat?: string | null, eos: number[]}} facts toolFormat: its name, where the
   *   export says it
   */
  constructor(tokenizer, { toolFormat, eos }) {
    this.tokenizer = tokenizer;
    this.format = toolFormat ? getFormat(toolFormat) : detectFormat(this.template(), (token) => this.tokenId(token) !== null);
    const stops = (this.format?.stops ?? []).map((token) => this.tokenId(token)).filter((id) => id !== null);
    this.stops = new Set([...eos, ...stops]);
    this.reasons = this.opens();
  }

  /** Token ids of a conversation up to where the model answers; tools: prepared. @returns {number[]} */
  prompt(messages, tools) {
    const spelled = new Spelled(this.marks());
    const text = spelled.render(prepareMessages(messages), (plain) => this.render(plain, tools));
    const decode = (ids) => this.tokenizer.decode(ids, { skip_special_tokens: false, clean_up_tokenization_spaces: false });
    return spelled.encode(text, (plain) => this.encode(plain, { special: false }), decode);
  }

  /** Token ids of a text; special: add what the tokenizer adds, such as <bos>. */
  encode(text, { special = true } = {}) {
    return Array.from(this.tokenizer.encode(text, { add_special_tokens: special }), Number);
  }

  /** The text of ids, control tokens shown, without the one that ended the answer. */
  decode(ids) {
    const said = ids.length && this.stops.has(ids.at(-1)) ? ids.slice(0, -1) : ids;
    if (!said.length) return '';
    return this.tokenizer.decode(said, { skip_special_tokens: false, clean_up_tokenization_spaces: false });
  }

  /** The format of calls, which may read them by the types that their tools declare. */
  formatOf(tools) {
    return (tools ? this.format?.withTools?.(tools) : null) ?? this.format;
  }

  parse(text, { format = this.format, repair = false } = {}) {
    return parseReply(text, format, { reasons: this.reasons, repair });
  }

  /** The tokens that results of tools must not spell. */
  marks() {
    this.known ??= marksOf(this.tokenizer, this.template());
    return this.known;
  }

  template() {
    try {
      return this.tokenizer.get_chat_template({ tools: [] });
    } catch {
      return null; // `prompt` will say so
    }
  }

  render(messages, tools) {
    if (!this.template()) {
      throw new LorakitError('the model has no chat template', {
        code: 'template_missing',
        hint: 'export it from a folder with a chat template, or complete text instead',
      });
    }
    try {
      return this.tokenizer.apply_chat_template(messages, { tools, add_generation_prompt: true, tokenize: false });
    } catch (error) {
      throw new LorakitError(`the chat template failed: ${error?.message ?? error}`, { code: 'format_invalid' });
    }
  }

  tokenId(token) {
    const ids = this.encode(token, { special: false });
    return ids.length === 1 && this.tokenizer.decode(ids, { skip_special_tokens: false }) === token ? ids[0] : null;
  }

  /** Whether the prompt for an answer ends within reasoning, already opened. */
  opens() {
    try {
      return opensReasoning(this.render([{ role: 'user', content: 'x' }], null));
    } catch {
      return false;
    }
  }
}

/** Messages made plain for a template: arguments as objects, no nulls. All faults at once. */
export function prepareMessages(messages) {
  const items = [];
  if (!Array.isArray(messages)) items.push(`messages must be a list of messages, found ${shown(messages)}`);
  else if (!messages.length) items.push('messages: empty');
  const plain = items.length ? [] : Array.from(messages, (message, i) => prepareMessage(`messages[${i}]`, message, items));
  if (items.length) throw new LorakitError('the messages cannot be rendered', { code: 'parameter_invalid', items });
  return plain;
}

function prepareMessage(where, message, items) {
  if (!isObject(message)) {
    items.push(`${where}: expected an object with role and content`);
    return {};
  }
  const { role, content, tool_calls: calls } = message;
  if (typeof role !== 'string' || !role) items.push(`${where}.role: expected a string such as 'user'`);
  const said = content !== null && content !== undefined;
  if (!said && !calls) items.push(`${where}.content: expected text or a list of parts`);
  if (said && role !== 'tool' && typeof content !== 'string' && !Array.isArray(content))
    items.push(`${where}.content: expected text or a list of parts`);
  const plain = Object.fromEntries(Object.entries(message).filter(([, value]) => value !== null && value !== undefined));
  if (Array.isArray(calls)) plain.tool_calls = calls.map((call, i) => prepareCall(`${where}.tool_calls[${i}]`, call, items));
  else if (calls) items.push(`${where}.tool_calls: expected a list`);
  const name = REASONING.find((key) => key in plain);
  return name ? { thinking: plain[name], ...plain, reasoning_content: plain[name] } : plain;
}

/** A call with its arguments as an object; OpenAI has them as a JSON string. */
function prepareCall(where, call, items) {
  const fn = isObject(call) ? (call.function ?? call) : null;
  if (!isObject(fn) || typeof fn.name !== 'string') {
    items.push(`${where}: expected a function with a name`);
    return call;
  }
  let given = fn.arguments ?? {};
  try {
    if (typeof given === 'string') given = given.trim() ? JSON.parse(given) : {};
  } catch (error) {
    items.push(`${where}.arguments: not valid JSON: ${error.message}`);
  }
  if (!isObject(given) && typeof given !== 'string') items.push(`${where}.arguments: expected an object`);
  const plain = { ...fn, arguments: given };
  return call.function ? { ...call, function: plain } : plain;
}

/** Tools as OpenAI function objects; a bare function is wrapped. null for none. */
export function prepareTools(tools) {
  if (tools === undefined || tools === null || (Array.isArray(tools) && !tools.length)) return null;
  const items = [];
  if (!Array.isArray(tools)) items.push(`tools must be a list of tools, found ${shown(tools)}`);
  const plain = items.length ? [] : Array.from(tools, (tool, i) => {
    const fn = isObject(tool) ? (tool.function ?? tool) : null;
    if (!isObject(fn) || typeof fn.name !== 'string') items.push(`tools[${i}]: expected a function with a name`);
    return fn === tool ? { type: 'function', function: fn } : tool;
  }); // prettier-ignore
  if (items.length) throw new LorakitError('the tools cannot be rendered', { code: 'parameter_invalid', items });
  return plain;
}

function isObject(value) {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
