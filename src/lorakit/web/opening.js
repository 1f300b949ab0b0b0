/**
 * Getting a model: where its files are, and transformers.js set up to read them.
 *
 * Settings of transformers.js are its module's; they are changed for the time of one opening and
 * put back. Its cache is per address; an export of lorakit's has a cache of its own content, so
 * that a new export at the same address is never mixed with the old.
 */

import { LorakitError } from './errors.js';
import { shown, wrong } from './options.js';
import { cancelled, throwIfAborted } from './queue.js';

const HUB = /^[\w.-]+\/[\w.-]+$/;
export const DEVICES = ['wasm', 'webgpu'];
export const DTYPES = ['auto', 'fp32', 'fp16', 'q8', 'int8', 'uint8', 'q4', 'q4f16', 'bnb4'];
const PREFIX = 'lorakit-model:';
const VENDOR = './vendor/';
const IN_NODE = typeof process !== 'undefined' && Boolean(process.versions?.node);

let opening = Promise.resolve();
let openings = 0;

/** The transformers.js module: given, by its address, or the one that lies beside this file. */
export async function transformersOf(given, device) {
  if (given && typeof given === 'object') return requireModule(given, 'what was given');
  const address = given ?? new URL(`${VENDOR}transformers.min.js`, import.meta.url).href;
  let transformers;
  try {
    transformers = await import(/* @vite-ignore */ /* webpackIgnore: true */ address);
  } catch (error) {
    throw new LorakitError(`transformers.js cannot be loaded from ${address}: ${error.message}`, {
      code: 'extra_missing',
      hint: 'pass { transformers } (the module of @huggingface/transformers), or fetch it with `make demo-browser`',
    });
  }
  requireModule(transformers, address);
  if (!given) useVendored(transformers.env, device);
  return transformers;
}

function requireModule(module, what) {
  if (module.AutoModelForCausalLM && module.env) return module;
  throw wrong(`${what} is not the module of @huggingface/transformers`);
}

/** The runtime that lies beside this file, instead of one from a server of others. */
function useVendored(env, device) {
  const wasm = env.backends?.onnx?.wasm;
  if (!wasm) return;
  const form = device === 'webgpu' ? '.asyncify' : '';
  const file = (ending) => new URL(`${VENDOR}ort-wasm-simd-threaded${form}.${ending}`, import.meta.url).href;
  wasm.wasmPaths = { mjs: file('mjs'), wasm: file('wasm') };
  env.useWasmCache = false;
}

/**
 * Where a model is: a repository of the Hub, or a folder at an address.
 * @param {string} source
 * @returns {{id: string, revision?: string, folder?: string}} folder: its address; the id is then
 *   only a name
 */
export function locate(source) {
  if (isHubId(source)) {
    const [named, revision] = source.replace(/^hf:/, '').split('@');
    if (HUB.test(named)) return { id: named, revision };
    throw new LorakitError(`${source} is no Hub id`, { code: 'parameter_invalid', hint: 'hf:org/repo[@revision]' });
  }
  if (IN_NODE && !/^https?:/.test(source)) return { id: source };
  const [text, base] = [source.replace(/\/*$/, ''), IN_NODE ? undefined : globalThis.location.href];
  if (!URL.canParse(text, base)) throw wrong(`this address cannot be read: ${shown(source)}`);
  const url = new URL(text, base);
  if (!/^https?:$/.test(url.protocol))
    throw new LorakitError(`${url.protocol} is not read`, { code: 'source_unsupported', hint: 'serve the folder over HTTP' });
  // transformers.js remembers by name whether files are there, so a name is never used again.
  return { id: `lorakit-${(openings += 1)}`, folder: `${url.href}/` };
}

/** @param {any} source */
export function requireSource(source) {
  if (typeof source !== 'string' || !source) throw wrong(`a model is named by a path, an address or a Hub id, found ${shown(source)}`);
}

/** Whether a source is a repository of the Hub: hf:..., or two plain names. @param {string} source */
export function isHubId(source) {
  const [named] = source.split('@');
  return source.startsWith('hf:') || (HUB.test(named) && !named.startsWith('.'));
}

/**
 * The transformers.js model and its tokenizer. One opening at a time: they share settings.
 * @returns {Promise<{model: any, tokenizer: any, device: string}>}
 */
export function fetchModel(transformers, source, options) {
  const task = () => fetchNow(transformers, locate(source), options);
  const turn = opening.then(task);
  opening = turn.then(() => {}, () => {});
  return turn;
}

async function fetchNow(transformers, place, { device, dtype, signal, progress, sessionOptions, cache = true }) {
  throwIfAborted(signal);
  const { env, AutoConfig, AutoTokenizer, AutoModelForCausalLM } = transformers;
  const used = IN_NODE && device === 'wasm' ? null : device;
  const fetched = new Set();
  const restore = await configure(env, place, { signal, cache, fetched });
  const told = ({ status, file, loaded, total }) => {
    if (status !== 'progress' || !progress) return;
    progress({ file, loaded, total, cached: ![...fetched].some((url) => url.endsWith(`/${file}`)) });
  };
  const options = { progress_callback: told, revision: place.revision };
  try {
    await AutoConfig.from_pretrained(place.id, options); // a folder that is not there says so
    const tokenizer = await AutoTokenizer.from_pretrained(place.id, options);
    const model = await AutoModelForCausalLM.from_pretrained(place.id, {
      ...options, dtype, device: used, session_options: sessionOptions,
    }); // prettier-ignore
    return { model, tokenizer };
  } catch (error) {
    throw signal?.aborted ? cancelled() : asLorakitError(error, place);
  } finally {
    restore();
  }
}

/**
 * Change the settings of transformers.js for a place; returns what puts them back. fetched: filled
 * with the addresses of the files that did not come from a cache.
 */
async function configure(env, { folder }, { signal, cache, fetched }) {
  const names = ['fetch', 'allowLocalModels', 'allowRemoteModels', 'remoteHost', 'remotePathTemplate', 'useBrowserCache', 'cacheKey'];
  const before = Object.fromEntries(names.map((name) => [name, env[name]]));
  const fetch = before.fetch ?? globalThis.fetch;
  // The browser's own cache may hold files of another export at this address: ask the server.
  const fresh = folder ? { cache: 'no-cache' } : {};
  env.fetch = (url, init = {}) => {
    // A range is asked for to learn of a file's size, not for the file.
    if (!new Headers(init.headers).has('range')) fetched.add(String(url));
    return fetch(url, { ...init, ...fresh, ...(signal && { signal }) });
  };
  if (!cache) env.useBrowserCache = false;
  if (folder) {
    const host = new URL(folder).origin;
    env.allowLocalModels = false;
    env.allowRemoteModels = true;
    env.remoteHost = `${host}/`;
    env.remotePathTemplate = folder.slice(host.length + 1);
    const key = cache ? await cacheOf(folder, env.fetch) : null;
    if (key) env.cacheKey = key;
  } else if (!IN_NODE) {
    env.allowLocalModels = false;
    env.allowRemoteModels = true;
  }
  return () => Object.assign(env, before);
}

/**
 * The name of the cache for an export: of its address and of the digest of its lorakit.json, which
 * lists its files. Offline it is the last one. null for a folder without lorakit.json.
 */
async function cacheOf(folder, fetch) {
  if (typeof caches === 'undefined' || !globalThis.crypto?.subtle) return null;
  const mine = `${PREFIX}${folder}#`;
  const names = (await caches.keys()).filter((name) => name.startsWith(mine));
  const response = await fetch(`${folder}lorakit.json`, { cache: 'no-cache' }).catch(() => null);
  if (!response || response.status >= 500) return names.at(-1) ?? null;
  if (!response.ok) return null;
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', await response.arrayBuffer()));
  const current = mine + Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
  await Promise.all(names.filter((name) => name !== current).map((name) => caches.delete(name)));
  return current;
}

/** What transformers.js throws, as an error with a code. */
function asLorakitError(error, { id, folder }) {
  if (error instanceof LorakitError) return error;
  const where = folder ?? id;
  const said = String(error?.message ?? error).slice(0, 500);
  const known = [
    [/not locate|not found|missing|404/i, 'source_not_found', 'is it an exported folder, with config.json and onnx/?'],
    [/Unauthorized|Forbidden|40[13]/i, 'source_denied', 'the model is private, or its server wants a login'],
    [/fetch|network|load failed/i, 'source_unreachable', 'is the server up, and does it allow this page (CORS)?'],
    [/memory|bad_alloc|allocat/i, 'out_of_memory', 'use a smaller form: q8 or q4'],
    [/Invalid dtype|Unsupported device|does not support fp16|available backend|webgpu/i, 'capability_missing', 'choose another device or dtype'],
    [/Unsupported model type|tokenizer/i, 'base_invalid', 'transformers.js has to know the model type'],
  ]; // prettier-ignore
  const [, code, hint] = known.find(([pattern]) => pattern.test(said)) ?? [null, 'base_invalid', ''];
  return new LorakitError(`${where} cannot be opened: ${said}`, { code, hint });
}
