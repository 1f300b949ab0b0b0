/**
 * Where a request may be computed, and why not: this page on WebGPU, this page on wasm, a server.
 */

/** @typedef {{id: string, label: string, note: string, available: boolean}} Runtime */

/** @returns {Promise<Runtime[]>} */
export async function findRuntimes() {
  const gpu = await whyNoGpu();
  const wasm = whyNoWasm();
  return [
    { id: 'wasm', label: 'This page, on wasm', available: !wasm, note: wasm || wasmNote() },
    { id: 'webgpu', label: 'This page, on WebGPU', available: !gpu, note: gpu || 'on this device’s GPU' },
    { id: 'remote', label: 'A server', available: true, note: 'any OpenAI-compatible address; text leaves this page' },
  ];
}

function wasmNote() {
  if (!globalThis.crossOriginIsolated) return 'on one thread: this page is not cross-origin isolated';
  const threads = Math.min(4, Math.ceil(navigator.hardwareConcurrency / 2)); // what onnxruntime takes
  return threads > 1 ? `on ${threads} threads` : 'on one thread';
}

function whyNoWasm() {
  return typeof WebAssembly === 'object' ? '' : 'this browser has no WebAssembly';
}

async function whyNoGpu() {
  if (!globalThis.isSecureContext) return 'needs https, or this machine’s own address';
  if (!navigator.gpu) return 'this browser has no WebGPU';
  try {
    return (await navigator.gpu.requestAdapter()) ? '' : 'the browser found no GPU that it may use';
  } catch (error) {
    return `the browser’s WebGPU fails: ${error.message}`;
  }
}
