/** Serve one model on a worker's `self` or a MessagePort, for `open(source, { worker })`. */
export function serve(port: unknown, given?: { transformers?: unknown }): void;
