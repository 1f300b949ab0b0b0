/**
 * The only code that fetches adapters: a reference in, the bytes of its files out.
 *
 * Sizes are bounded before and while bytes come, a file that ends early is refused, and one of a
 * given digest must have it. What came is kept by its digest (cache.js); where the network is away,
 * the last copy of an address is used, and said so.
 */

import { CONFIG } from './adapter.js';
import { cachedFile, keepFile, lastDigest } from './cache.js';
import { canDigest, sha256 } from './digest.js';
import { LorakitError } from './errors.js';
import { CHECKPOINT, WEIGHTS as MLX_WEIGHTS } from './mlx.js';
import { INDEX, PICKLE, WEIGHTS as PEFT_WEIGHTS } from './peft.js';
import { preparedAdapter, preparedKey } from './prepared.js';
import { cancelled, throwIfAborted } from './queue.js';
import { parseReference, pinOf, requireAllowed, shownUrl } from './reference.js';

const MAX_BYTES = 2 ** 31 - 1; // that a page can hold in one buffer
const MAX_CONFIG = 16 << 20;
const FIRST = 64 << 20; // bytes that are set aside on a server's word
const WEIGHTS = [PEFT_WEIGHTS, MLX_WEIGHTS];
const KNOWN = [CONFIG, ...WEIGHTS, PICKLE, INDEX];

/** @typedef {{code: string, message: string}} Warning */

/** Files by name; with what the adapter is called and what there is to say of how they came. */
export class AdapterFiles extends Map {
  constructor(name) {
    super();
    this.name = name;
    /** @type {Warning[]} */
    this.warnings = [];
    /** The SHA-256 of the weights, or of the one file, where it came from an address. */
    this.digest = '';
    /** @type {import('./adapter.js').Adapter | null} what was prepared of it before, instead of its weights */
    this.prepared = null;
    /** @type {Promise<Warning | null>[]} */
    this.keeping = [];
  }

  /** Watch what is being cached. @param {string} what @param {Promise<string>} kept */
  keep(what, kept) {
    this.keeping.push(kept.then((fault) => (fault ? { code: 'write_failed', message: `${what} is not cached: ${fault}` } : null)));
  }

  /** What could not be cached. @returns {Promise<Warning[]>} */
  async notKept() {
    return (await Promise.all(this.keeping)).filter((warning) => warning !== null);
  }
}

/**
 * @param {object} options
 * @param {string | URL | File | Iterable<File>} options.path a folder or a web file
 * @param {'auto' | 'url' | 'file' | 'huggingface'} [options.source] the kind that `path` must be
 * @param {string} [options.digest] SHA-256 of the weights' file; taken from the cache, if it is there
 * @param {(event: {file: string, loaded: number, total: number | null}) => void} [options.progress]
 * @param {AbortSignal} [options.signal]
 * @param {boolean} [options.cache] whether files are kept
 * @param {string} [options.endpoint] of the Hub, or of a mirror
 * @param {number} [options.maxBytes] of all files together
 * @param {import('./adapter.js').Module[]} [options.modules] of the model: what was prepared for it is
 *   taken, where the digest is given
 * @param {typeof fetch} [options.fetch] what to fetch with
 * @returns {Promise<AdapterFiles>}
 * Throws LorakitError: parameter_invalid, source_not_found, source_denied, source_unreachable,
 * source_too_large, source_mismatch, source_unsupported, capability_missing, cancelled.
 */
export async function fetchAdapter({ path, source, digest, endpoint, maxBytes = MAX_BYTES, ...options }) {
  throwIfAborted(options.signal);
  const reference = parseReference(path, source, { endpoint });
  const files = new AdapterFiles(reference.name);
  const pinned = pinOf(digest) || reference.sha256 || '';
  if (pinned && !canDigest())
    throw new LorakitError('a digest cannot be checked here', { code: 'capability_missing', hint: 'serve the page over https, or from this machine' });
  const context = { ...options, files, pinned, left: Math.min(maxBytes, MAX_BYTES) };
  if (reference.kind === 'url') await fetchUrl(reference, context);
  else await readFiles(await chosenFiles(reference), context);
  return files;
}

async function fetchUrl({ url, file, folder, name }, context) {
  if (file && !KNOWN.includes(file)) {
    if (await takePrepared(context)) return;
    const content = await download(url, context, { pinned: context.pinned });
    if (!content) throw notFound(`the server has nothing at ${shownUrl(url)}`, 'check the URL');
    context.files.set(file, content);
    return;
  }
  const config = await download(folder + CONFIG, context, { most: MAX_CONFIG });
  if (!config) throw notFound(`${shownUrl(folder)} has no ${CONFIG}`, 'a folder holds adapter_config.json and its weights; a web file ends in .safetensors');
  context.files.set(CONFIG, config);
  if (await takePrepared(context)) return;
  for (const weights of likelyWeights(config)) {
    const content = await download(folder + weights, context, { pinned: context.pinned });
    if (!content) continue;
    context.files.set(weights, content);
    return;
  }
  if (await isThere(folder + PICKLE, context)) context.files.set(PICKLE, new Uint8Array(0)); // it is refused by name
  else throw notFound(`${name}: ${shownUrl(folder)} has no ${WEIGHTS.join(' or ')}`, 'check the URL');
}

/** Whether the adapter is there as it was prepared for the model, from weights of the given digest. */
async function takePrepared({ files, pinned, modules, cache = true }) {
  if (!pinned || !modules || !cache) return false;
  const key = await preparedKey({ weights: pinned, config: files.get(CONFIG), modules });
  files.prepared = await preparedAdapter(key);
  return files.prepared !== null;
}

/** Which weights to ask for first: a request that fails is shown as an error by every browser. */
function likelyWeights(config) {
  const text = new TextDecoder().decode(config);
  return text.includes('"peft_type"') || !text.includes('"lora_parameters"') ? WEIGHTS : [...WEIGHTS].reverse();
}

/** The bytes of an address, or null where there is nothing. */
async function download(url, context, { pinned = '', most = context.left }) {
  const { cache = true } = context;
  const kept = pinned && cache ? await cachedFile(pinned) : null;
  if (kept) context.files.digest = pinned;
  const content = kept ?? (await fetchBytes(url, { ...context, pinned, most: Math.min(most, context.left) }));
  context.left -= content ? content.length : 0;
  return content;
}

async function fetchBytes(url, context) {
  const response = await ask(url, context, 'GET');
  if (!response) return offlineCopy(url, context);
  if (!isAnswer(response, url)) return null;
  const encoded = response.headers.get('Content-Encoding') ?? 'identity';
  const total = encoded === 'identity' ? announced(response) : null;
  if (total !== null && total > context.most) throw await tooLarge(url, total, context, response.body);
  const content = await receive(response, url, { ...context, total });
  if (total !== null && content.length < total) throw unreachable(url, `the connection ended after ${content.length} of ${total} bytes`);
  await checkAndKeep(content, url, context);
  return content;
}

async function checkAndKeep(content, url, { files, pinned, cache = true }) {
  const digest = canDigest() ? await sha256(content) : '';
  if (pinned && digest !== pinned) throw mismatch(shownUrl(url), pinned, digest);
  files.digest = digest;
  if (cache && digest) files.keep(shownUrl(url), keepFile(content, { digest, url, source: shownUrl(url) }));
}

/** A response, or null where there is no connection. */
async function ask(url, { signal, fetch = globalThis.fetch }, method) {
  try {
    // no-cache asks whether the browser's own copy is still right
    return await fetch(url, { method, signal, cache: 'no-cache', credentials: 'same-origin', referrerPolicy: 'no-referrer' });
  } catch (error) {
    if (signal?.aborted) throw cancelled();
    return null;
  }
}

/** What an address gave last, where the network is away; of a given digest it was looked for before. */
async function offlineCopy(url, { files, pinned, cache = true }) {
  const digest = cache && !pinned ? await lastDigest(url) : null;
  const content = digest && (await cachedFile(digest));
  if (!content) throw unreachable(url, 'no connection, or the server does not allow this page (CORS)');
  files.digest = digest;
  files.warnings.push({ code: 'offline', message: `${shownUrl(url)} cannot be reached: the copy that is cached is used` });
  return content;
}

/** Whether a response has the file; false where there is none. Throws for other answers. */
function isAnswer(response, url) {
  const { status } = response;
  if (response.url) requireAllowed(new URL(response.url), globalThis.location?.href); // where redirects led
  if (status === 404 || status === 410 || isPage(response)) return false;
  if (status === 200) return true;
  if (status === 401 || status === 403)
    throw new LorakitError(`cannot fetch ${shownUrl(url)}: the server refuses it (${status})`, {
      code: 'source_denied',
      hint: 'lorakit sends no credentials; download it yourself and choose the files. The Hub says so of what is not there, too',
    });
  throw unreachable(url, `the server answers ${status}`);
}

/** Servers of applications answer with their page where there is no file. */
function isPage(response) {
  return response.status === 200 && /^text\/html/i.test(response.headers.get('Content-Type') ?? '');
}

async function isThere(url, context) {
  const response = await ask(url, context, 'HEAD');
  return response?.status === 200 && !isPage(response);
}

function announced(response) {
  const said = response.headers.get('Content-Length');
  return said && /^\d{1,15}$/.test(said) ? Number(said) : null;
}

/** The body, as far as it is allowed. What `progress` throws ends it. */
async function receive(response, url, context) {
  const { signal, progress, total, most } = context;
  const file = decodeURIComponent(new URL(url).pathname).split('/').at(-1);
  const reader = response.body.getReader();
  let content = new Uint8Array(Math.min(total ?? 0, FIRST));
  let loaded = 0;
  try {
    for (;;) {
      progress?.({ file, loaded, total });
      const { done, value } = await reader.read().catch(() => {
        throw signal?.aborted ? cancelled() : unreachable(url, `the connection ended after ${loaded} bytes`);
      });
      if (done) return content.subarray(0, loaded);
      const before = loaded;
      loaded += value.length;
      if (loaded > most) throw await tooLarge(url, loaded, context);
      if (loaded > content.length) content = grown(content, loaded);
      content.set(value, before);
    }
  } catch (error) {
    await reader.cancel().catch(() => {});
    throw error;
  }
}

/** With room for so many bytes and more to come. */
function grown(content, length) {
  const larger = new Uint8Array(Math.max(length, 2 * content.length));
  larger.set(content);
  return larger;
}

/** The files that the user chose, or that lie at a path of this machine. */
async function chosenFiles(reference) {
  if (reference.kind === 'files') return reference.files;
  const { openFolder } = await import('./local.js');
  return openFolder(reference.path, KNOWN);
}

/** The files that make an adapter, of those in a folder; or one web file. */
async function readFiles(chosen, context) {
  const named = new Map([...chosen].map((file) => [withoutFolder(file), file]));
  const wanted = KNOWN.filter((known) => named.has(known));
  const checkpoints = [...named.keys()].filter((name) => CHECKPOINT.test(name)).sort();
  if (checkpoints.length && named.has(CONFIG) && !WEIGHTS.some((name) => named.has(name))) throw severalSteps(checkpoints, context.files.name);
  const folder = named.size > 1 && !named.has(CONFIG); // its names alone say what it is
  for (const name of folder || !wanted.length ? named.keys() : wanted) {
    throwIfAborted(context.signal);
    const unread = folder || name === PICKLE || name === INDEX;
    context.files.set(name, unread ? new Uint8Array(0) : await readFile(named.get(name), name, context));
  }
  if (context.pinned && WEIGHTS.every((name) => wanted.includes(name)))
    throw new LorakitError(`it holds both ${WEIGHTS.join(' and ')}, and a digest is of one`, { code: 'source_mismatch', hint: 'name the files that are meant' });
  if (context.pinned && !folder) await checkChosen(wanted.find((name) => WEIGHTS.includes(name)) ?? [...named.keys()].at(-1), context);
}

/** A training of mlx-lm that was not finished: one of its steps is to be chosen. */
function severalSteps(checkpoints, name) {
  return new LorakitError(`${name} holds the weights of training steps (mlx-lm), and no ${MLX_WEIGHTS}`, {
    code: 'format_unsupported',
    items: checkpoints.slice(0, 20),
    hint: `call the one that is meant ${MLX_WEIGHTS}`,
  });
}

async function checkChosen(name, { files, pinned }) {
  const found = await sha256(files.get(name) ?? new Uint8Array(0));
  if (found !== pinned) throw mismatch(name, pinned, found);
}

async function readFile(file, name, context) {
  const most = name === CONFIG ? MAX_CONFIG : context.left;
  if (file.size > Math.min(most, context.left))
    throw new LorakitError(`${name} is too large: ${file.size} bytes, ${most} are allowed`, { code: name === CONFIG ? 'format_invalid' : 'source_too_large' });
  context.left -= file.size;
  const content = new Uint8Array(await file.arrayBuffer());
  context.progress?.({ file: name, loaded: content.length, total: file.size });
  return content;
}

/** A file's name within the folder that was chosen. */
function withoutFolder(file) {
  const path = file.webkitRelativePath || file.name || 'adapter.safetensors';
  return path.includes('/') ? path.slice(path.indexOf('/') + 1) : path;
}

function notFound(message, hint) {
  return new LorakitError(message, { code: 'source_not_found', hint });
}

function unreachable(url, reason) {
  return new LorakitError(`cannot fetch ${shownUrl(url)}: ${reason}`, { code: 'source_unreachable', hint: 'try again, or choose the files' });
}

function mismatch(what, expected, found) {
  return new LorakitError(`${what} is not the file that the digest names`, {
    code: 'source_mismatch',
    expected,
    found,
    hint: 'ask whoever gave you the digest; do not use the file',
  });
}

async function tooLarge(url, size, { most }, body) {
  await body?.cancel().catch(() => {});
  return new LorakitError(`${shownUrl(url)} is too large: ${size} bytes or more, ${most} are allowed`, {
    code: 'source_too_large',
    hint: '{ maxBytes } allows more',
  });
}
