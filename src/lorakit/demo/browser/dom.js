/** Elements and the words that numbers are shown in. Text is always text, never markup. */

/** @param {string} id */
export const byId = (id) => document.getElementById(id);

/**
 * An element: properties as they are called in the DOM, `data-` and `aria-` names as attributes.
 * @param {string} tag
 * @param {Record<string, any>} [properties]
 * @param {...(Node | string | null)} children
 */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-') || name === 'role' || name === 'for') made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Bytes for people, as the command line says them: 224 KB, 1.2 MB. */
export function sizeText(bytes) {
  let count = bytes;
  for (const unit of ['B', 'KB', 'MB']) {
    if (count < 1000) return `${Number(count.toPrecision(3))} ${unit}`;
    count /= 1000;
  }
  return `${Number(count.toPrecision(3))} GB`;
}

export function numberText(value) {
  return Number(value.toPrecision(3)).toString();
}

/** What failed, why, and what to do: with the stable code, so that it can be looked up. */
export function errorBox(error) {
  const { code = 'error', message = String(error), items = [], hint = '', expected = '', found = '' } = error;
  const box = el('div', { className: 'error-box' });
  box.append(el('p', {}, el('code', {}, code), ` ${message}`));
  const lines = [...items, expected && `expected: ${expected}`, found && `found: ${found}`].filter(Boolean);
  if (lines.length) box.append(el('ul', {}, ...lines.slice(0, 4).map((line) => el('li', {}, line))));
  if (hint) box.append(el('p', { className: 'hint' }, hint));
  return box;
}

/** One line of an error, for places that are read aloud. */
export function errorLine({ code = 'error', message = '', hint = '' }) {
  return `[${code}] ${message}${hint ? ` (${hint})` : ''}`;
}

/** A colour of its own for each adapter, by the order in which they came: a class of style.css. */
export function hueOf(index) {
  return `hue-${index % 6}`;
}

/** What acted on an answer, as coloured labels. @param {{name: string, scale?: number, hue: string}[]} parts */
export function chips(parts) {
  const all = parts.map(({ name, scale, hue }) => {
    const text = scale === undefined || scale === 1 ? name : `${name} × ${numberText(scale)}`;
    return el('span', { className: `chip ${hue}` }, text);
  });
  const line = el('span', { className: 'chips' });
  line.append(...all);
  return line;
}
