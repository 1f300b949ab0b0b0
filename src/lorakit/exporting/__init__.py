"""export: a base and adapters as a folder that another runtime loads, proven."""
