/**
 * What parameters of declared tools may be, for formats whose values stand as bare text: a text, a
 * text or null ('optional'), or what else there is. The rules are those of chat/formats/qwenrules.py.
 */

const ANYTHING = ['string', 'null', 'other'];
const DEPTH = 8; // references and alternatives within each other

const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

/**
 * By a function's name, what a parameter of it may be.
 * @typedef {'text' | 'optional' | 'other'} Kind
 * @param {any[]} tools OpenAI function objects @returns {Map<string, (key: string) => Kind>}
 */
export function textsOf(tools) {
  const functions = tools.map((tool) => (isObject(tool.function) ? tool.function : tool));
  return new Map(functions.map((fn) => [String(fn.name), parametersOf(fn.parameters)]));
}

function parametersOf(schema) {
  if (!isObject(schema)) return () => 'other';
  const properties = isObject(schema.properties) ? schema.properties : {};
  const declared = new Map(Object.entries(properties).map(([key, inner]) => [key, kindOf(inner, schema)]));
  const others = kindOf(schema.additionalProperties, schema);
  return (key) => declared.get(key) ?? others;
}

function kindOf(schema, root) {
  const allowed = allowedBy(schema, root, 0);
  if (!allowed.includes('string') || allowed.includes('other')) return 'other';
  return allowed.includes('null') ? 'optional' : 'text';
}

/** Which of string, null and "other" a JSON schema allows. */
function allowedBy(schema, root, depth) {
  if (!isObject(schema) || depth > DEPTH) return ANYTHING;
  const within = (inner) => allowedBy(inner, root, depth + 1);
  let found = ANYTHING;
  const keep = (kinds) => (found = found.filter((kind) => kinds.includes(kind)));
  const { type } = schema;
  if (type !== undefined && type !== null) {
    keep([type].flat().map((kind) => namedKind(String(kind).toLowerCase())));
    if (schema.nullable === true) found = [...new Set([...found, 'null'])];
  }
  const values = 'enum' in schema ? schema.enum : 'const' in schema ? [schema.const] : null;
  if (Array.isArray(values)) keep(values.map((value) => namedKind(value === null ? 'null' : typeof value)));
  if (typeof schema.$ref === 'string') keep(within(target(schema.$ref, root)));
  for (const either of [schema.anyOf, schema.oneOf]) if (Array.isArray(either)) keep(either.flatMap(within));
  if (Array.isArray(schema.allOf)) for (const each of schema.allOf) keep(within(each));
  return found;
}

function namedKind(kind) {
  return kind === 'string' || kind === 'null' ? kind : 'other';
}

function target(reference, root) {
  const parts = reference.replace(/^#/, '').split('/').slice(1);
  return parts.reduce((found, part) => {
    const name = part.replaceAll('~1', '/').replaceAll('~0', '~');
    return isObject(found) && Object.hasOwn(found, name) ? found[name] : null;
  }, root);
}
