/**
 * Control tokens that results of tools spell, such as <|im_end|>, kept as text: a result must not end
 * a turn or begin a call. The rules are those of chat/spelled.py.
 *
 * A character that nothing in the conversation holds is put into each of them before the template
 * renders: what it stands in is content, not the template's own. There the prompt is cut, and its
 * pieces are encoded apart.
 */

import { LorakitError } from './errors.js';
import { wrong } from './options.js';
import { escaped } from './tags.js';

const RESULTS = ['tool', 'function', 'ipython']; // roles of what functions returned
const [FIRST, LAST] = [0xe000, 0xf8ff]; // characters that mean nothing

/**
 * The tokens that results must not spell: control tokens, and of the other added tokens those in
 * brackets that the template writes, such as <tool_call>.
 * @param {any} tokenizer of transformers.js @param {string | null} template @returns {string[]}
 */
export function marksOf(tokenizer, template) {
  const added = [...(tokenizer._tokenizer?.get_added_tokens_decoder?.().values() ?? [])].map(({ content }) => content);
  const written = added.filter((text) => '<[\u25c1'.includes(text[0] ?? ' ') && template?.includes(text));
  return [...new Set([...(tokenizer.all_special_tokens ?? []), ...written])].filter((text) => text.length > 1);
}

/** The control tokens that one conversation's results spell. Made anew for each. */
export class Spelled {
  /** @param {string[]} marks */
  constructor(marks) {
    const longest = [...marks].sort((x, y) => y.length - x.length);
    this.pattern = new RegExp(longest.map(escaped).join('|') || '(?!)', 'g');
    this.marks = marks;
    this.inserted = '';
  }

  /** The prompt, with a character in each control token that a result spells. */
  render(messages, render) {
    const plain = render(messages);
    if (!messages.some(isResult)) return plain;
    const [one, other] = unused(plain + JSON.stringify(messages));
    const marked = this.with(one, messages);
    if (JSON.stringify(marked) === JSON.stringify(messages)) return plain;
    const text = render(marked);
    if (text.replaceAll(one, '') !== plain && render(this.with(other, messages)).replaceAll(other, one) !== text)
      throw wrong('the chat template rewrites what messages say: control tokens that they spell cannot be told from its own');
    this.inserted = one;
    return text;
  }

  /**
   * Token ids of what `render` gave.
   * @param {string} text @param {(text: string) => number[]} encode @param {(ids: number[]) => string} decode
   */
  encode(text, encode, decode) {
    const { plain, cuts } = this.content(text);
    const whole = encode(plain);
    if (!cuts.length) return whole;
    const ids = [0, ...cuts].flatMap((from, i) => encode(plain.slice(from, cuts[i])));
    if (decode(ids) === decode(whole)) return ids;
    throw new LorakitError('a result spells a control token, which this tokenizer cannot write as text', {
      code: 'capability_missing',
      hint: 'leave control tokens such as <|im_end|> out of what tools return',
    });
  }

  /** A text as it is meant, and where within it control tokens are cut, since they are content. */
  content(text) {
    const pieces = this.inserted ? text.split(this.inserted) : [text];
    const plain = pieces.join('');
    const cuts = [];
    let place = 0;
    for (const piece of pieces.slice(0, -1)) {
      place += piece.length;
      if (this.marks.some((mark) => plain.startsWith(mark, place - 1))) cuts.push(place);
    }
    return { plain, cuts };
  }

  with(character, messages) {
    return messages.map((message) => (isResult(message) ? { ...message, content: this.into(character, message.content) } : message));
  }

  /** A JSON value with the character in its texts and names. */
  into(character, value) {
    if (typeof value === 'string') return this.intoText(character, value);
    if (Array.isArray(value)) return value.map((item) => this.into(character, item));
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [this.intoText(character, key), this.into(character, item)]));
  }

  /** The character behind the first one of each mark, and of what the end of the text begins of one. */
  intoText(character, text) {
    const places = new Set();
    this.pattern.lastIndex = 0;
    for (let found = this.pattern.exec(text); found; found = this.pattern.exec(text)) {
      places.add(found.index + 1);
      this.pattern.lastIndex = found.index + 1;
    }
    const longest = Math.max(0, ...this.marks.map((mark) => mark.length));
    for (let at = Math.max(0, text.length - longest); at < text.length; at += 1)
      if (this.marks.some((mark) => mark.startsWith(text.slice(at)))) places.add(at + 1);
    const cuts = [0, ...[...places].sort((x, y) => x - y), text.length];
    return cuts.slice(1).map((end, i) => text.slice(cuts[i], end)).join(character);
  }
}

function isResult(message) {
  return RESULTS.includes(message.role);
}

/** Two characters that a text does not hold. */
function unused(text) {
  const free = [];
  for (let code = FIRST; code <= LAST && free.length < 2; code += 1) if (!text.includes(String.fromCharCode(code))) free.push(String.fromCharCode(code));
  if (free.length < 2) throw wrong('the messages hold every character of the private use area');
  return free;
}
