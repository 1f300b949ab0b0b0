/** White space as Python's str.strip and \s have it; JavaScript's trim and \s differ. */

export const SPACES = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';
const LEADING = new RegExp(`^[${SPACES}]+`);
const IS_SPACE = new RegExp(`[${SPACES}]`);

/** @param {string} text */
export function stripStart(text) {
  return text.replace(LEADING, '');
}

/** A loop, since a pattern for the end would be tried at every run of spaces. @param {string} text */
export function stripEnd(text) {
  let end = text.length;
  while (end > 0 && IS_SPACE.test(text[end - 1])) end -= 1;
  return text.slice(0, end);
}

/** @param {string} text */
export function strip(text) {
  return stripStart(stripEnd(text));
}

/** Where a pattern with the flag g matches at or after a position, or null. */
export function searchFrom(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.exec(text);
}

/** What a sticky pattern matches at a position, or null. */
export function matchAt(pattern, text, at) {
  pattern.lastIndex = at;
  const found = pattern.exec(text);
  return found && found[0];
}

/**
 * What a text holds without its opening, the stop tokens behind it and its closing tag, and whether
 * it had that one. @param {string} text @param {{open?: string, close: string, stops: string[]}} marks close: '' where nothing closes it
 */
export function without(text, { open = '', close, stops }) {
  let body = stripEnd(text.startsWith(open) ? text.slice(open.length) : text);
  for (const stop of stops) body = stripEnd(body.endsWith(stop) ? body.slice(0, -stop.length) : body);
  const closed = close !== '' && body.endsWith(close);
  return { body: closed ? body.slice(0, -close.length) : body, closed };
}
