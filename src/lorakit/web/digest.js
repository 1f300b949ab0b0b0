/** SHA-256, which a page has where its address is https or of this machine. */

/** Whether it can be computed here. */
export function canDigest() {
  return Boolean(globalThis.crypto?.subtle);
}

/** @param {Uint8Array} bytes @returns {Promise<string>} 64 hex digits */
export async function sha256(bytes) {
  const found = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(found, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
