/**
 * PEFT's adapter_config.json: which fields count, which are refused, and what they say of a module;
 * as formats/peft/config.py, whose rules are those of peft 0.21. The file is data here: fields are
 * read by name, and what would change the arithmetic beyond an adapter is refused by name.
 */

import { invalid, unsupported } from './errors.js';
import { askingUnwrapped } from './names.js';
import { Budget, PatternError, PatternTable, Regex, UnknownSyntaxError } from './patterns.js';

const ACTIVE = {
  megatron_config: "adapts Megatron's parallel layers",
  layer_replication: 'repeats layers of the base',
  use_qalora: 'pools the inputs of A in groups (QA-LoRA)',
  use_bdlora: 'stores block-diagonal factors (BD-LoRA)',
  arrow_config: 'routes between adapters (Arrow)',
  kasa_config: 'changes the base by an SVD and adds a diagonal (KaSA)',
  monteclora_config: 'samples its weights (MonteCLoRA)',
};
const PLAIN_INITS = new Set(['true', 'false', 'none', 'gaussian', 'eva', 'orthogonal', 'mica']);
const BASE_CHANGING = ['pissa', 'olora', 'corda', 'loftq', 'lora_ga'];
const KNOWN = new Set([
  ...Object.keys(ACTIVE), // what never changes what a trained adapter computes:
  'corda_config', 'eva_config', 'loftq_config', 'lora_ga_config', 'runtime_config', 'velora_config',
  'use_dora', 'use_rslora', // and what is read
]); // prettier-ignore
const MAX_RANK = 1 << 16;
const MAX_TOKENS = 1 << 20;

/**
 * The config's meaning.
 * @param {Map<string, any>} raw @param {string} where the adapter's name, for messages
 * @param {string} hint how to use one that computes more than an adapter can say
 */
export function parseConfig(raw, where, hint) {
  refuseActive(raw, where, hint);
  const reader = new Reader(raw);
  const tokens = raw.get('trainable_token_indices');
  const config = {
    r: Number(reader.whole('r', 8n, 1, MAX_RANK)),
    alpha: reader.number('lora_alpha', 8),
    useRslora: reader.flag('use_rslora'),
    ranks: reader.table('rank_pattern', isRank),
    alphas: reader.table('alpha_pattern', isNumber),
    targetModules: orNull(reader.names('target_modules')),
    targetParameters: new Set(reader.listed('target_parameters')),
    excludeModules: reader.names('exclude_modules'),
    layers: new Set(reader.ints('layers_to_transform').map(Number)),
    layersPattern: reader.listed('layers_pattern'),
    modulesToSave: reader.listed('modules_to_save'),
    useDora: reader.flag('use_dora'),
    tokenIndices: truthy(tokens) ? reader.tokens(tokens) : new Map(),
    invocationTokens: reader.ints('alora_invocation_tokens'),
    tiesWeights: truthy(raw.get('ensure_weight_tying')),
    baseName: raw.get('base_model_name_or_path'),
  };
  if (reader.faults.length) throw invalid(`${where}: adapter_config.json has fields of the wrong kind`, { items: reader.faults });
  return config;
}

/**
 * Answers for one module name at a time. Every method may throw PatternError. Where a pattern for
 * modules is of a syntax that the automaton lacks, the names of the tensors decide: `readable` is false.
 */
export class Resolver {
  constructor(config) {
    const budget = new Budget();
    for (const name of config.layersPattern)
      if (!/^[\p{L}\p{N}_.-]*$/u.test(name)) throw new PatternError(`layers_pattern '${name.slice(0, 80)}' is not a plain name`);
    this.config = config;
    this.ranks = new PatternTable([...config.ranks.keys()], budget);
    this.alphas = new PatternTable([...config.alphas.keys()], budget);
    this.readable = true;
    this.target = this.regex(config.targetModules, budget);
    this.exclude = this.regex(config.excludeModules, budget);
    this.savedModules = config.modulesToSave.map((name) => new Regex(`(^|.*\\.)${name}($|\\..*)`, budget));
  }

  regex(pattern, budget) {
    if (typeof pattern !== 'string' || !pattern || pattern === 'all-linear') return null;
    try {
      return new Regex(pattern, budget);
    } catch (error) {
      if (!(error instanceof UnknownSyntaxError)) throw error;
      this.readable = false;
      return null;
    }
  }

  rank(module) {
    const key = this.ranks.first(module);
    return key === null ? this.config.r : Number(this.config.ranks.get(key));
  }

  alpha(module) {
    const key = this.alphas.first(module);
    return key === null ? this.config.alpha : Number(this.config.alphas.get(key));
  }

  /** alpha / r, or alpha / sqrt(r) with rsLoRA (Kalajdzievski 2023). */
  scale(module) {
    const rank = this.rank(module);
    return this.alpha(module) / (this.config.useRslora ? Math.sqrt(rank) : rank);
  }

  /** Whether PEFT would put a LoRA layer on this module, going by its name. */
  targeted(module) {
    const { targetModules, targetParameters, layers } = this.config;
    if (this.excluded(module) || this.saved(module)) return false;
    if (targetModules === null && targetParameters.size) return false; // experts alone
    if (this.target) return this.target.fullmatch(module);
    if (targetModules === null || typeof targetModules === 'string') return true; // the tensors say what
    if (targetModules.has(module)) return true; // named in full: PEFT does not ask for the layer then
    if (!endsWithOne(targetModules, module)) return false;
    return !layers.size || layers.has(this.layer(module));
  }

  targetedParameter(name) {
    return endsWithOne(this.config.targetParameters, name);
  }

  saved(module) {
    return this.savedModules.some((saved) => saved.fullmatch(module));
  }

  excluded(module) {
    if (this.exclude) return this.exclude.fullmatch(module);
    const { excludeModules } = this.config;
    return typeof excludeModules !== 'string' && endsWithOne(excludeModules, module);
  }

  /** The layer index in a module name, by PEFT's rule: the first number that follows a name that is
   * not the first part, or that follows one of `layers_pattern`. */
  layer(module) {
    const parts = module.split('.');
    for (let index = 1; index < parts.length - 1; index += 1) {
      const before = parts.slice(0, index).join('.');
      const names = this.config.layersPattern;
      const listed = names.length ? names.some((name) => before === name || before.endsWith(`.${name}`)) : index > 1;
      if (listed && /^[0-9]+$/.test(parts[index])) return Number(parts[index]);
    }
    return null;
  }
}

function endsWithOne(names, module) {
  const parts = module.split('.');
  return parts.some((_, index) => names.has(parts.slice(index).join('.')));
}

function orNull(names) {
  return names === '' || names.size === 0 ? null : names;
}

function refuseActive(raw, where, hint) {
  const kind = raw.has('peft_type') ? raw.get('peft_type') : 'LORA';
  if (kind !== 'LORA')
    throw unsupported(`${where} is a PEFT adapter of type ${shown(kind)}, not LoRA`, {
      hint: 'merge it into its base with PEFT and use the merged model',
    });
  const faults = Object.entries(ACTIVE).filter(([name]) => truthy(raw.get(name))).map(([name, why]) => `${name}: ${why}`);
  const init = initOf(raw);
  if (BASE_CHANGING.some((changing) => init.startsWith(changing)))
    faults.push(`init_lora_weights = '${init.slice(0, 80)}': its base is not the original base model`);
  else if (!PLAIN_INITS.has(init)) faults.push(`init_lora_weights = '${init.slice(0, 80)}': lorakit does not know this initialisation`);
  for (const [name, value] of raw)
    if (!KNOWN.has(name) && truthy(value) && (name.startsWith('use_') || name.endsWith('_config')))
      faults.push(`${name}: lorakit does not know this option`);
  if (faults.length)
    throw unsupported(`the PEFT adapter in ${where} computes more than lorakit can express`, {
      items: faults,
      hint: `PiSSA, OLoRA, CorDA and LoRA-GA with their initial adapter: lorakit convert ADAPTER OUT --to peft --init INITIAL; then ${hint}`,
    });
}

function initOf(raw) {
  const value = raw.has('init_lora_weights') ? raw.get('init_lora_weights') : true;
  return value === null ? 'none' : String(value instanceof Map ? '{}' : value).toLowerCase();
}

function shown(value) {
  const text = typeof value === 'string' ? `'${value}'` : value instanceof Map ? 'an object' : Array.isArray(value) ? 'a list' : String(value);
  return text.slice(0, 80);
}

/** What counts as set: as Python has it. */
export function truthy(value) {
  if (value instanceof Map) return value.size > 0;
  if (Array.isArray(value)) return value.length > 0;
  return Number.isNaN(value) || Boolean(value);
}

function isNumber(value) {
  return (typeof value === 'bigint' || typeof value === 'number') && value < 1e30 && value > -1e30;
}

function isRank(value) {
  return typeof value === 'bigint' && value >= 1n && value <= MAX_RANK;
}

function isTokenId(value) {
  return typeof value === 'bigint' && value >= 0n && value < 1n << 31n;
}

/** A table by what asks for no wrapper; as it is where two names would become one. */
function asking(table) {
  const plain = new Map([...table].map(([name, value]) => [askingUnwrapped(name), value]));
  return plain.size === table.size ? plain : table;
}

/** Reads typed fields and collects what is wrong with them. */
class Reader {
  constructor(raw) {
    this.raw = raw;
    this.faults = [];
  }

  fault(name, expected, instead) {
    this.faults.push(`${name}: expected ${expected}, found ${shown(this.raw.get(name))}`);
    return instead;
  }

  given(name, instead) {
    return this.raw.has(name) ? this.raw.get(name) : instead;
  }

  whole(name, instead, low, high) {
    const value = this.given(name, instead);
    const good = typeof value === 'bigint' && value >= low && value <= high;
    return good ? value : this.fault(name, `a whole number from ${low} to ${high}`, instead);
  }

  number(name, instead) {
    const value = this.given(name, instead);
    return isNumber(value) ? Number(value) : this.fault(name, 'a finite number', instead);
  }

  flag(name) {
    const value = this.given(name, false);
    if (!truthy(value)) return false;
    return value === true || this.fault(name, 'true or false', true);
  }

  table(name, valid) {
    const value = this.given(name, null);
    if (!truthy(value)) return new Map();
    const good = value instanceof Map && [...value.values()].every(valid);
    return good ? asking(value) : this.fault(name, 'an object of names and numbers', new Map());
  }

  names(name) {
    const value = this.given(name, null);
    return typeof value === 'string' ? askingUnwrapped(value) : new Set(this.listed(name));
  }

  listed(name) {
    const value = this.given(name, null);
    if (!truthy(value)) return [];
    const list = typeof value === 'string' ? [value] : value;
    const good = Array.isArray(list) && list.every((item) => typeof item === 'string');
    return good ? list.map(askingUnwrapped) : this.fault(name, 'a list of names', []);
  }

  ints(name) {
    const value = this.given(name, null) ?? [];
    const list = typeof value === 'bigint' ? [value] : value;
    const good = Array.isArray(list) && list.length <= MAX_TOKENS && list.every(isTokenId);
    return good ? list : this.fault(name, 'a list of whole numbers', []);
  }

  tokens(value) {
    const name = 'trainable_token_indices';
    if (!(value instanceof Map)) return new Map([['embed_tokens', this.ints(name)]]);
    const good = [...value.values()].every((ids) => Array.isArray(ids) && ids.every(isTokenId));
    return good ? asking(value) : this.fault(name, 'lists of token ids', new Map());
  }
}
