/** As much of a browser's CacheStorage as is used. */
export function fakeCaches() {
  const stores = new Map();
  const storeOf = (entries) => ({
    match: async (key) => entries.get(key)?.clone(),
    put: async (key, response) => {
      entries.set(key, response);
    },
    delete: async (key) => entries.delete(key),
    keys: async () => [...entries.keys()].map((url) => ({ url })),
  });
  return {
    stores,
    open: async (name) => storeOf(stores.get(name) ?? stores.set(name, new Map()).get(name)),
    delete: async (name) => stores.delete(name),
  };
}
