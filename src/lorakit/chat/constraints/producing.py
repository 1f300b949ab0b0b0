"""Which definitions of a schema can ever be written to their end."""

from __future__ import annotations

from lorakit.chat.constraints.nodes import Array, Either, Node, Object, Reference, Schema


def endless(schema: Schema) -> list[str]:
    """The definitions that no finite value fits, or that are themselves with nothing around."""
    names = schema.definitions
    ends: set[str] = set()
    while True:
        more = {name for name, node in names.items() if name not in ends and _ends(node, ends)}
        if not more:
            break
        ends |= more
    bare = {name for name in names if _comes_back(name, schema)}
    return [name for name in names if name not in ends or name in bare]


def _ends(node: Node, known: set[str]) -> bool:
    """Whether a value fits that holds only known definitions."""
    if isinstance(node, Reference):
        return node.name in known
    if isinstance(node, Either):
        return any(_ends(option, known) for option in node.options)
    if isinstance(node, Object):
        return all(_ends(node.properties[name], known) for name in node.required)
    if isinstance(node, Array):
        needed = node.first[: node.least]
        if node.least > len(node.first) and node.rest is not None:
            needed = (*needed, node.rest)
        return all(_ends(item, known) for item in needed)
    return True


def _comes_back(name: str, schema: Schema) -> bool:
    """Whether a definition is itself through references and alternatives alone."""
    seen: set[str] = set()
    waiting: list[Node] = [schema.definitions[name]]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Either):
            waiting.extend(node.options)
        elif isinstance(node, Reference):
            if node.name == name:
                return True
            if node.name not in seen and node.name in schema.definitions:
                seen.add(node.name)
                waiting.append(schema.definitions[node.name])
    return False
