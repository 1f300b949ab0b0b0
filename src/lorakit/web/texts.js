/**
 * Which parameters of declared tools are texts, for formats whose values stand as bare text: those
 * whose type allows nothing else. The rules are those of chat/formats/qwenrules.py.
 */

const DEPTH = 8; // references and alternatives within each other

const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

/**
 * By a function's name, whether a parameter of it is a text.
 * @param {any[]} tools OpenAI function objects @returns {Map<string, (key: string) => boolean>}
 */
export function textsOf(tools) {
  const functions = tools.map((tool) => (isObject(tool.function) ? tool.function : tool));
  return new Map(functions.map((fn) => [String(fn.name), parametersOf(fn.parameters)]));
}

function parametersOf(schema) {
  if (!isObject(schema)) return () => false;
  const properties = isObject(schema.properties) ? schema.properties : {};
  const declared = new Map(Object.entries(properties).map(([key, inner]) => [key, saysText(inner, schema, 0)]));
  const others = saysText(schema.additionalProperties, schema, 0);
  return (key) => declared.get(key) ?? others;
}

/** Whether a JSON schema allows texts alone. */
function saysText(schema, root, depth) {
  if (!isObject(schema) || depth > DEPTH || schema.nullable === true) return false;
  const within = (inner) => saysText(inner, root, depth + 1);
  const { type } = schema;
  if (type !== undefined && type !== null) return [type].flat().every((kind) => String(kind).toLowerCase() === 'string');
  const values = 'enum' in schema ? schema.enum : [schema.const];
  if (Array.isArray(values) && values.length && ('enum' in schema || 'const' in schema)) return values.every((value) => typeof value === 'string');
  if (typeof schema.$ref === 'string') return within(target(schema.$ref, root));
  const either = [schema.anyOf, schema.oneOf].find(Array.isArray);
  if (either) return either.every(within);
  return Array.isArray(schema.allOf) && schema.allOf.some(within);
}

function target(reference, root) {
  const parts = reference.replace(/^#/, '').split('/').slice(1);
  return parts.reduce((found, part) => {
    const name = part.replaceAll('~1', '/').replaceAll('~0', '~');
    return isObject(found) && Object.hasOwn(found, name) ? found[name] : undefined;
  }, root);
}
