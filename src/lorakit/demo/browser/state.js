/**
 * What the page was told: the site's own models and adapters, and what its user chose. Choices are
 * kept for the next visit, keys and files of the device are not.
 */

const KEY = 'lorakit-demo';

/** site.json, which `lorakit demo --browser` writes; its paths as addresses. */
export async function readSite() {
  const response = await fetch('site.json');
  if (!response.ok) throw new Error(`site.json: ${response.status}`);
  const site = await response.json();
  const located = (item) => ({ ...item, path: new URL(item.path, document.baseURI).href });
  return { ...site, models: site.models.map(located), adapters: site.adapters.map(located) };
}

/** @returns {Record<string, any>} */
export function readChoices() {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? '{}') ?? {};
  } catch {
    return {}; // no storage, or somebody else's value: the defaults
  }
}

export function keepChoices(choices) {
  try {
    localStorage.setItem(KEY, JSON.stringify({ ...readChoices(), ...choices }));
  } catch {
    // a full or forbidden storage is no reason to fail
  }
}
