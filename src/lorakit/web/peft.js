/**
 * A PEFT adapter folder as deltas of linear layers; every tensor is accounted for or refused, as
 * formats/peft does. What a folder holds beyond such deltas is listed in `beyond`.
 *
 * Names are `base_model.model.<module>.<suffix>`, as peft_names.js leaves them; the suffixes are those
 * that peft 0.21 writes.
 */

import { LorakitError, firstOf, invalid, unsupported } from './errors.js';
import { isModule, isName, isSeeing, lastOf, tensorFault } from './names.js';
import { PatternError } from './patterns.js';
import { Resolver, parseConfig } from './peft_config.js';
import { plainNames } from './peft_names.js';
import { isSaved, missing } from './promises.js';
import { readSafetensors, valuesOf } from './safetensors.js';

export const WEIGHTS = 'adapter_model.safetensors';
export const PICKLE = 'adapter_model.bin';
export const FINGERPRINT = 'lorakit.base_fingerprint'; // in the weights' metadata
export const STAGED = 'invocation tokens'; // of an aLoRA
export const INDEX = `${WEIGHTS}.index.json`;
const PARTS = [
  ['.lora_A.weight', 'a'], ['.lora_B.weight', 'b'], ['.lora_B.bias', 'bias'],
  ['.lora_embedding_A', 'embedding a'], ['.lora_embedding_B', 'embedding b'],
  ['.lora_magnitude_vector', 'magnitude'], ['.lora_magnitude_vector.weight', 'magnitude'],
  ['.token_adapter.trainable_tokens_delta', 'rows'], ['.token_adapter.base_layer.weight', 'base weight'],
  ['.base_layer.weight', 'base weight'], ['.base_layer.bias', 'base bias'],
  ['.modules_to_save.weight', 'saved weight'], ['.modules_to_save.bias', 'saved bias'],
]; // prettier-ignore
const LAST = [['.weight', 'saved weight'], ['.bias', 'saved bias']]; // prettier-ignore
const UNREADABLE = [['.lora_diag', "KaSA's diagonal"], ['.lora_E', "AdaLoRA's singular values"], ['.lora_ranknum', "AdaLoRA's rank"]]; // prettier-ignore
const VECTORS = new Set(['bias', 'magnitude', 'base bias', 'saved bias']);
const EXPERT = /^.+\.experts\.(?:0|[1-9]\d{0,3})\.(?:gate_proj|up_proj|down_proj)$/;
const PARAMETERS = ['weight', 'gate_up_proj', 'down_proj'];
const TABLE = /(?:embed_tokens|wte)$/;
const VOCABULARY = /(?:embed_tokens|wte|lm_head)$/;

/**
 * @param {Map<string, Uint8Array>} files @param {Map<string, any>} raw the config
 * @param {string} where its name, for messages @param {string} hint how to use it all the same
 * @returns {import('./adapter.js').Read}
 */
export function readPeft(files, raw, where, hint) {
  const config = parseConfig(raw, where, hint); // first: why it is refused matters more than broken weights
  const weights = files.get(WEIGHTS);
  if (!weights) throw withoutWeights(files, where, hint);
  const { tensors, metadata } = readSafetensors(weights, `${where}/${WEIGHTS}`);
  const parts = new Parts(tensors, where, hint);
  const { deltas, beyond, resolver, whole } = build(config, parts, where, hint);
  if (parts.faults.length)
    throw invalid(`the PEFT adapter in ${where} does not agree with itself`, {
      items: firstOf(parts.faults),
      hint: "save it again with PEFT's save_pretrained",
    });
  const { baseName } = config;
  return {
    deltas, beyond, base: metadata.get(FINGERPRINT) ?? '', baseName: typeof baseName === 'string' ? baseName : '',
    lacking: (modules, renamed) => missing(config, resolver, whole, modules, renamed),
  }; // prettier-ignore
}

function withoutWeights(files, where, hint) {
  if (!files.has(PICKLE) && files.has(INDEX))
    return unsupported(`${where} holds an adapter in several files, which PEFT does not load either`, {
      hint: `put all tensors into one ${WEIGHTS}: safetensors' load_file and save_file`,
    });
  if (!files.has(PICKLE)) return new LorakitError(`${where} has adapter_config.json but no ${WEIGHTS}`, { code: 'source_not_found' });
  return new LorakitError(`${where} holds ${PICKLE}: a pickle can run code when it is opened, so it is not read`, {
    code: 'pickle_refused',
    hint: `where you trust it: lorakit convert ADAPTER OUT --to web --allow-pickle; or convert it --to peft, and ${hint}`,
  });
}

function build(config, parts, where, hint) {
  try {
    const resolver = new Resolver(config);
    return { resolver, ...collect(config, resolver, parts) };
  } catch (error) {
    if (!(error instanceof PatternError)) throw error;
    throw unsupported(`${where}: adapter_config.json has a pattern for module names that cannot be used: ${error.message}`, { hint });
  }
}

/** The deltas of linear layers, and what there is beyond them; faults go into `parts`. */
function collect(config, resolver, parts) {
  const beyond = takeExperts(config, resolver, parts);
  const linear = pairs(parts, 'a', 'b', resolver);
  const embedding = pairs(parts, 'embedding a', 'embedding b', resolver);
  const deltas = [...linear, ...embedding];
  checkTargets(config, resolver, deltas, parts);
  const adapted = new Set(deltas.map(({ module }) => module));
  for (const module of parts.of('rows').keys())
    if (adapted.has(module)) parts.faults.push(`${module}: replaced rows and LoRA on one module`);
  beyond.push(...replacements(parts), ...rows(config, parts));
  checkDora(config, adapted, parts);
  checkSaved(config, parts);
  for (const module of parts.of('magnitude').keys()) beyond.push(`${module}: a DoRA magnitude`);
  for (const { module } of embedding) beyond.push(`${module}: a delta of the embedding`);
  for (const { module, bias } of linear) if (bias) beyond.push(`${module}: a bias of B`);
  if (!deltas.length && !beyond.length && !parts.faults.length) parts.faults.push('no tensor at all: the adapter does nothing');
  if (config.invocationTokens.length) beyond.push(`${STAGED}: it acts from a text on (aLoRA)`);
  const replaced = ['base weight', 'base bias', 'saved weight', 'saved bias', 'saved parameter', 'rows'].flatMap((kind) => [...parts.of(kind).keys()]);
  return { deltas: linear, beyond, whole: { adapted, replaced, rows: parts.of('rows') } };
}

/** The tensors of a file, by what they are and the module they belong to. */
class Parts {
  constructor(tensors, where, hint) {
    this.kinds = new Map();
    this.faults = [];
    const good = new Map([...tensors].filter(([key]) => isName(key)));
    for (const key of tensors.keys()) if (!good.has(key)) this.faults.push(`'${key.slice(0, 80)}': not a tensor name`);
    for (const [key, name] of plainNames(good, where, hint)) this.add(key, name, tensors.get(key));
  }

  /** @returns {Map<string, import('./safetensors.js').Tensor>} */
  of(kind) {
    if (!this.kinds.has(kind)) this.kinds.set(kind, new Map());
    return this.kinds.get(kind);
  }

  add(key, name, tensor) {
    const [kind, module] = classify(name);
    const fault = partFault(kind, module, tensor);
    if (fault) this.faults.push(`${key}: ${fault}`);
    else if (this.of(kind).has(module)) this.faults.push(`${key}: a second tensor for the same part of ${module}`);
    else this.of(kind).set(module, tensor);
  }
}

/** What a tensor is and its module, or ['', reason] for one that cannot be read. */
function classify(name) {
  const ends = ([end]) => name.endsWith(end) && name.length > end.length;
  const found = PARTS.find(ends);
  if (found) return [found[1], name.slice(0, -found[0].length)];
  const unreadable = UNREADABLE.find(([end]) => name.includes(end));
  if (unreadable) return ['', `${unreadable[1]} cannot be read`];
  if (name.includes('.lora_') || name.includes('.base_layer.')) return ['', 'a part that lorakit does not know'];
  const last = LAST.find(ends);
  if (last) return [last[1], name.slice(0, -last[0].length)];
  if (isSeeing(name)) return ['saved parameter', name]; // a projector's matrix has a name of its own
  return ['', 'not part of any LoRA layer that lorakit knows'];
}

function partFault(kind, module, tensor) {
  if (!kind) return module;
  if (!isModule(module)) return 'not a module name';
  const fault = tensorFault(tensor);
  if (fault) return fault;
  const dimensions = VECTORS.has(kind) ? 1 : 2;
  if (tensor.shape.length === dimensions || /^(?:base|saved) (?:weight|parameter)$/.test(kind)) return '';
  return `expected ${dimensions} dimensions, found [${tensor.shape}]`;
}

/** Take out the tensors of experts and bare parameters; what they are, for no input says them. */
function takeExperts(config, resolver, parts) {
  const names = new Set([...parts.of('a').keys(), ...parts.of('b').keys()]);
  const bare = (name) => {
    const module = name.replace(/(?:\.base_layer)+$/, '');
    return PARAMETERS.some((leaf) => resolver.targetedParameter(`${module}.${leaf}`));
  };
  const parameters = config.targetParameters.size ? [...names].filter(bare) : [];
  if (config.targetParameters.size && !parameters.length) parts.faults.push("there are no tensors of the config's target_parameters");
  const found = [...new Set([...parameters, ...[...names].filter((name) => EXPERT.test(name))])];
  for (const name of found) for (const kind of ['a', 'b', 'bias', 'magnitude']) parts.of(kind).delete(name);
  return found.map((name) => `${name}: experts, or a bare parameter`);
}

function pairs(parts, kindA, kindB, resolver) {
  const [tops, bottoms, biases] = [parts.of(kindA), parts.of(kindB), parts.of('bias')];
  const linear = kindA === 'a';
  for (const [have, lack, there, other] of [['A', 'B', tops, bottoms], ['B', 'A', bottoms, tops]])
    for (const module of there.keys()) if (!other.has(module)) parts.faults.push(`${module}: has lora_${have} but no lora_${lack}`);
  if (linear)
    for (const module of biases.keys())
      if (!tops.has(module) || !bottoms.has(module)) parts.faults.push(`${module}: has a bias of lora_B but no pair`);
  const deltas = [];
  for (const module of [...tops.keys()].sort()) {
    const [a, b, rank] = [tops.get(module), bottoms.get(module), bottoms.has(module) && resolver.rank(module)];
    if (!b) continue;
    if (a.shape[0] !== rank || b.shape[1] !== rank) {
      parts.faults.push(`${module}: the config gives rank ${rank}, the tensors are A [${a.shape}] and B [${b.shape}]`);
      continue;
    }
    const bias = linear && biases.has(module) && valuesOf(biases.get(module)).some((value) => value !== 0);
    if (bias && biases.get(module).shape[0] !== b.shape[0]) {
      parts.faults.push(`${module}: the bias of lora_B is [${biases.get(module).shape}]`);
      continue;
    }
    // PEFT gives every layer a bias where any layer has one: one of zeros is none
    deltas.push({ module, a, b, rank, in: a.shape[1], out: b.shape[0], scale: resolver.scale(module), bias, turned: true });
  }
  return deltas;
}

/** PEFT ignores, in silence, tensors of modules that its config does not target. */
function checkTargets(config, resolver, deltas, parts) {
  const tied = config.tiesWeights && parts.of('embedding a').size > 0;
  for (const { module } of deltas) {
    const follows = tied && lastOf(module) === 'lm_head'; // the embedding's partner
    if (!follows && !resolver.targeted(module)) parts.faults.push(`${module}: has LoRA tensors, but the config does not target it`);
  }
}

function checkDora({ useDora }, adapted, parts) {
  const have = parts.of('magnitude');
  if (have.size && !useDora) parts.faults.push('there are DoRA magnitudes, but the config has use_dora = false');
  for (const module of have.keys()) if (!adapted.has(module)) parts.faults.push(`${module}: a DoRA magnitude without LoRA tensors`);
  if (!useDora) return;
  for (const module of adapted) if (!have.has(module)) parts.faults.push(`${module}: use_dora = true, but it has no magnitude`);
}

/** A whole weight is of a module that the config says is saved, or of the vocabulary. */
function checkSaved({ modulesToSave }, parts) {
  for (const module of parts.of('saved weight').keys())
    if (!VOCABULARY.test(module) && !modulesToSave.some((name) => isSaved(module, name)))
      parts.faults.push(`${module}.weight: neither part of a LoRA layer nor in the config's modules_to_save`);
  for (const name of parts.of('saved parameter').keys())
    if (!modulesToSave.some((saved) => isSaved(name, saved))) parts.faults.push(`${name}: not in the config's modules_to_save`);
}

/** Full tensors that the adapter brings, each once. */
function replacements(parts) {
  const names = [];
  for (const kind of ['base weight', 'base bias', 'saved weight', 'saved bias'])
    for (const module of parts.of(kind).keys()) names.push(`${module}.${kind.split(' ')[1]}`);
  names.push(...parts.of('saved parameter').keys());
  const twice = names.filter((name, index) => names.indexOf(name) !== index);
  for (const name of twice) parts.faults.push(`the adapter holds a part more than once: ${name}`);
  return names.map((name) => `${name}: a whole parameter (modules_to_save, or a trained bias)`);
}

/** Rows of the embedding that the adapter replaces; each needs one id. */
function rows({ tokenIndices }, parts) {
  const found = [];
  for (const [module, { shape }] of parts.of('rows')) {
    const idsOf = (fits) => [...tokenIndices].filter(([name]) => fits(name)).map(([, ids]) => ids);
    let named = idsOf((name) => module === name || module.endsWith(`.${name}`));
    if (!named.length && VOCABULARY.test(module)) named = idsOf((name) => TABLE.test(name)); // a list names none; a head that was tied
    const fits = named.length === 1 && named[0].length === shape[0] && new Set(named[0]).size === shape[0];
    if (!fits) parts.faults.push(`${module}: ${shape[0]} replaced rows, but trainable_token_indices does not name each once`);
    else found.push(`${module}: trained rows of tokens`);
  }
  return found;
}
