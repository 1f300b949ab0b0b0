/**
 * Folders and files of this machine, in Node, opened without trusting the folder: a link may not
 * lead out of it, except into the blobs of a Hugging Face cache, which keeps every file that way.
 */

import { LorakitError, invalid } from './errors.js';
import { CHECKPOINT, WEIGHTS as MLX_WEIGHTS } from './mlx.js';
import { CONFIG } from './mlx_config.js';

const [FS, PATH] = ['node:fs/promises', 'node:path']; // names that no bundler looks for

/** @typedef {{name: string, size: number, arrayBuffer: () => Promise<Uint8Array>}} LocalFile */

/**
 * @param {string} place a folder or a file
 * @param {string[]} members names of files that may be links
 * @returns {Promise<LocalFile[]>}
 */
export async function openFolder(place, members) {
  const [fs, path] = [await import(/* @vite-ignore */ FS), await import(/* @vite-ignore */ PATH)];
  const about = await statOf(fs, place);
  if (about.isFile()) return openFile(place, members, { fs, path, about });
  if (!about.isDirectory()) throw new LorakitError(`${place} is not a regular file`, { code: 'source_unsupported' });
  const root = await fs.realpath(place);
  const found = [];
  for (const entry of await fs.readdir(place, { withFileTypes: true })) {
    const whole = path.join(place, entry.name);
    if (members.includes(entry.name)) found.push(await openMember(fs, path, { root, place, whole, name: entry.name }));
    else if (entry.isDirectory()) found.push(...(await namedWithin(fs, path, whole, entry.name)));
    else if (entry.isFile()) found.push(fileOf(fs, whole, entry.name, (await fs.stat(whole)).size));
  }
  return found;
}

/** A file alone, or the folder that it is of; mlx-lm's weights at a training step as those of theirs. */
async function openFile(place, members, { fs, path, about }) {
  const name = path.basename(place);
  if (members.includes(name)) return openFolder(path.dirname(place), members);
  const config = path.join(path.dirname(place), CONFIG);
  const there = CHECKPOINT.test(name) && (await fs.stat(config).then((found) => found.isFile(), () => false));
  if (!there) return [fileOf(fs, place, name, about.size)];
  const beside = { root: await fs.realpath(path.dirname(place)), place: path.dirname(place), whole: config, name: CONFIG };
  return [fileOf(fs, place, MLX_WEIGHTS, about.size), await openMember(fs, path, beside)];
}

async function statOf(fs, place) {
  try {
    return await fs.stat(place);
  } catch (error) {
    throw new LorakitError(`there is no adapter at ${place}: ${error.code}`, {
      code: 'source_not_found',
      hint: 'give a PEFT or MLX folder, a web file, a URL, or hf:org/repo',
    });
  }
}

async function openMember(fs, path, { root, place, whole, name }) {
  const target = await fs.realpath(whole).catch((error) => {
    throw invalid(`${whole} is a link that leads nowhere: ${error.code}`);
  });
  const within = (folder) => target.startsWith(folder + path.sep);
  const snapshots = path.resolve(place).split(path.sep).lastIndexOf('snapshots');
  const repository = snapshots < 0 ? null : path.resolve(place).split(path.sep).slice(0, snapshots).join(path.sep);
  if (!within(root) && !(repository && within(path.join(await fs.realpath(repository), 'blobs'))))
    throw invalid(`${whole} is a link that leads out of its folder`, { hint: 'copy the file itself into the folder' });
  const about = await fs.stat(target);
  if (!about.isFile()) throw invalid(`${whole} is not a regular file`);
  return fileOf(fs, target, name, about.size);
}

/** The adapters that lie one folder deeper, only to be named. */
async function namedWithin(fs, path, folder, name) {
  const inside = path.join(folder, 'adapter_config.json');
  const there = await fs.stat(inside).then((about) => about.isFile(), () => false);
  return there ? [fileOf(fs, inside, `./${name}/adapter_config.json`, 0)] : [];
}

function fileOf(fs, place, name, size) {
  return { name, size, arrayBuffer: async () => fs.readFile(place) };
}
