/** lorakit in the browser. Shapes, defaults and codes are those of the Python library. */

export interface OpenOptions {
  /** The module of @huggingface/transformers, or its address; else the one in ./vendor/. */
  transformers?: unknown;
  /** 'wasm' by default. */
  device?: 'wasm' | 'webgpu';
  /** A form that was exported: transformers.js's names. The export's own default otherwise. */
  dtype?: 'fp32' | 'fp16' | 'q8' | 'q4' | 'q4f16';
  /**
   * true: in a worker of lorakit's. A Worker or MessagePort: one that calls `serve`. false: in the
   * page. By default true, unless `transformers` is a module, which cannot be sent to a worker.
   */
  worker?: boolean | Worker | MessagePort;
  /** Threads of wasm, where the page is cross-origin isolated. */
  threads?: number;
  /** Whether the model's files are kept in the Cache API; true by default. */
  cache?: boolean;
  /** Further options for onnxruntime's session. */
  sessionOptions?: Record<string, unknown>;
  progress?: (event: Progress) => void;
  signal?: AbortSignal;
}

export interface Progress {
  file: string;
  loaded: number;
  total: number | null;
  /** Of a model's files: whether it came from the Cache API. */
  cached?: boolean;
}

export interface AdapterConfig {
  /** An address of a folder or a file, hf:org/repo[@revision], or files of a picker. */
  path: string | URL | File | File[] | FileList | Map<string, ArrayBuffer>;
  source?: 'auto' | 'url' | 'file' | 'huggingface';
  /** 'merge' is what an export does; it is refused here with the command. */
  mode?: 'dynamic' | 'merge';
  /** What `apply` uses where no scale is said; it multiplies the adapter's own. 1 by default. */
  scale?: number | null;
  /** 'base': go on with the base; `load` gives null and `warnings` says why. */
  onError?: 'raise' | 'base';
  /** Of the Hub, or of a mirror of it. */
  endpoint?: string;
  /**
   * sha256:<hex> of the weights' file, checked before the adapter is used. What was loaded once by its
   * digest comes from the cache, ready for the model's inputs.
   */
  digest?: string;
  /** The last part of the path by default. */
  name?: string;
  /** Whether its files are kept in the Cache API, by digest; true by default. */
  cache?: boolean;
  progress?: (event: Progress) => void;
  signal?: AbortSignal;
}

export interface AdapterInfo {
  name: string;
  rank: number;
  digest: string;
  bytes: number;
  /** null while it does not act. */
  scale: number | null;
}

/** By name; a list is at scale 1. Left out: what `apply` has set. {}: the base alone. */
export type Scales = Record<string, number> | string[];

export interface Message {
  role: string;
  content?: unknown;
  tool_calls?: unknown[];
  [key: string]: unknown;
}

export interface SamplingOptions {
  /** 256 by default. */
  maxTokens?: number;
  /** 0, the default, is greedy. */
  temperature?: number;
  topK?: number;
  topP?: number;
  /** The same draws as Python's for the same seed. */
  seed?: number | null;
  /** Texts that end the answer before them. */
  stop?: string | string[];
}

export interface RequestOptions extends SamplingOptions {
  adapters?: Scales;
}

export interface CallOptions {
  /** OpenAI function objects. */
  tools?: unknown[];
  /**
   * null, 'auto' and 'free' leave calls as the model writes them; 'none' has it write none. A page
   * cannot force a call: 'required' and a function's name are capability_missing.
   */
  toolChoice?: 'auto' | 'none' | 'free' | 'required' | (string & {}) | { type: 'function'; function: { name: string } } | null;
  /** false: the answer ends behind its first call. */
  parallelToolCalls?: boolean;
  /** Calls that cannot be read are mended where it is clear what was meant; `repairs` says how. */
  repair?: boolean;
  /** A page has no grammars: anything but text is capability_missing. */
  responseFormat?: { type: 'text' } | null;
}

export interface ChatOptions extends RequestOptions, CallOptions {
  signal?: AbortSignal;
}

export interface BatchRequest extends RequestOptions, CallOptions {
  messages?: Message[];
  /** Instead of messages: text or token ids. */
  prompt?: string | number[];
}

export interface Call {
  name: string;
  arguments: Record<string, unknown>;
}

export interface Malformed {
  text: string;
  reason: string;
  position: number;
}

export interface Repair {
  /** Of the call that was mended, among `calls`. */
  index: number;
  /** What was done, such as "a comma before a closing bracket was left out". */
  words: string;
}

export interface ParsedReply {
  /** The words, without calls and reasoning. */
  text: string;
  calls: Call[];
  /** What began like a call and is none. */
  malformed: Malformed[];
  reasoning: string;
  /** What was mended in calls, where that was asked for. */
  repairs: Repair[];
}

export interface Reply extends ParsedReply {
  /** All of the above as the model wrote it. */
  raw: string;
  /** Every token, the one that ended the answer included. */
  ids: number[];
  finishReason: 'stop' | 'length';
  usage: { promptTokens: number; cachedTokens: number; completionTokens: number; seconds: number };
}

export type StreamEvent = { type: 'text'; text: string } | { type: 'end'; reply: Reply };

/**
 * Joined, the events of a reply are its parts. A call is a callStart, at least one callArguments (joined
 * they are its arguments as JSON) and a callEnd, or a callWithdrawn in place of the rest: it was none.
 */
export type ReplyEvent =
  | { type: 'text'; text: string }
  | { type: 'reasoning'; text: string }
  | { type: 'callStart'; index: number; name: string }
  | { type: 'callArguments'; index: number; text: string }
  | { type: 'callEnd'; index: number; call: Call }
  | { type: 'callWithdrawn'; index: number }
  /** Text, reasoning and calls so far do not count: what follows is the whole reply. */
  | { type: 'withdrawn' };

export interface LoadedAdapter {
  readonly name: string;
  /** Throws adapter_unknown once it was unloaded. */
  readonly info: AdapterInfo;
  /** Add it to the adapters that act, or change its scale. */
  apply(scale?: number): Promise<void>;
  remove(): Promise<void>;
  unload(): Promise<void>;
}

export interface Model {
  readonly device: string;
  readonly dtype: string | null;
  /** What the export says of itself: base, adapters, tool_format, context. */
  readonly facts: Record<string, unknown>;
  readonly takesAdapters: boolean;
  readonly adapters: AdapterInfo[];
  readonly warnings: { code: string; message: string; adapter: string }[];
  load(config: string | AdapterConfig | AdapterConfig['path']): Promise<LoadedAdapter | null>;
  /** Exactly these adapters act, from the next request on. */
  apply(scales: Scales): Promise<void>;
  /** One more acts, or at another scale. */
  apply(adapter: LoadedAdapter | string, scale?: number): Promise<void>;
  remove(adapter: LoadedAdapter | string): Promise<void>;
  unload(adapter: LoadedAdapter | string): Promise<void>;
  clear(): Promise<void>;
  chat(messages: Message[], options?: ChatOptions): Promise<Reply>;
  complete(prompt: string | number[], options?: ChatOptions): Promise<Reply>;
  /** An answer's text as it comes, and its end. */
  stream(messages: Message[], options?: ChatOptions): AsyncGenerator<StreamEvent>;
  /** Every part of it as soon as it is certain, and its end. Run no call before the end. */
  events(messages: Message[], options?: ChatOptions): AsyncGenerator<ReplyEvent | { type: 'end'; reply: Reply }>;
  batch(requests: BatchRequest[], options?: { signal?: AbortSignal }): Promise<Reply[]>;
  close(): Promise<void>;
}

export class LorakitError extends Error {
  constructor(
    message: string,
    facts?: { code?: string; expected?: string; found?: string; hint?: string; items?: string[] },
  );
  /** Stable, and the same as in Python: source_not_found, capability_missing, cancelled, ... */
  code: string;
  expected: string;
  found: string;
  hint: string;
  items: string[];
}

export interface ToolFormat {
  name: string;
  openings: string[];
  stops: string[];
  parse(reply: string, options?: ParseOptions): ParsedReply;
  /** Of formats that write values as bare text: the one that reads by the types of these tools. */
  withTools?(tools: unknown[]): ToolFormat;
}

export interface ParseOptions {
  /** Whether the reply begins within reasoning, since the prompt opened it. */
  reasons?: boolean;
  /** Whether calls that cannot be read are mended. */
  repair?: boolean;
}

/** A reply read piece by piece. */
export interface ReplyReader {
  /** What is certain with this piece. */
  feed(piece: string): ReplyEvent[];
  /** What is left, given the whole reply as parseReply reads it. */
  end(parsed: ParsedReply): ReplyEvent[];
}

export const FORMATS: Record<string, ToolFormat>;
export function getFormat(name: string): ToolFormat;
export function detectFormat(template: string | null, hasToken?: (token: string) => boolean): ToolFormat | null;
export function parseReply(
  reply: string,
  format: ToolFormat | null,
  /** true is { reasons: true }. */
  options?: boolean | ParseOptions,
): ParsedReply;
export function readerOf(format: ToolFormat | null, options?: ParseOptions): ReplyReader;

/** What is kept of adapters, and where. */
export function cachedAdapters(): Promise<{ where: string; bytes: number; files: unknown[] }>;
export function clearCachedAdapters(): Promise<unknown>;

export function open(source: string, options?: OpenOptions): Promise<Model>;
