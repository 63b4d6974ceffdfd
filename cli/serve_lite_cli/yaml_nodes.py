"""YAML as a tree of nodes, which know where in the text they stand: for telling people where a mistake is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.resolver import VersionedResolver

#: Parts of a path like `applications[0].runtime_env.env_vars`.
PATH_PART = re.compile(r"\[(\d+)\]|([^.\[\]]+)")

#: What YAML takes texts without quotes for, beside texts.
_NUMBERS_AND_SUCH = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float"))
_MERGE = "<<"


def reader() -> YAML:
    """Return a reader that takes YAML 1.1, as Ray does: `yes` and `on` are true."""
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    yaml.Resolver = _Resolver
    yaml.allow_duplicate_keys = True  # `duplicates` tells all of them
    return yaml


class _Resolver(VersionedResolver):
    """Leaves `y` and `n` texts, as the reader does that Ray uses; they are usual names of keys."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        return super().resolve(kind, "text" if value in ("y", "Y", "n", "N") else value, implicit)


def find(root: Node | None, path: str) -> tuple[int, int, Node | None]:
    """Return line and column, from 1, of `path` or of the nearest part around it that exists.

    Third comes the value there, None if it is only the part around.
    """
    node = root
    mark = node.start_mark if node is not None else None
    is_there = True
    for index, key in PATH_PART.findall(path):
        if index and isinstance(node, SequenceNode) and int(index) < len(node.value):
            node = node.value[int(index)]
            mark = node.start_mark
        elif key and isinstance(node, MappingNode) and (pair := _pair(node, key)):
            mark, node = pair[0].start_mark, pair[1]
        else:
            is_there = False
            break
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    return line, column, node if is_there else None


def _pair(node: MappingNode, key: str) -> tuple[Node, Node] | None:
    """Return the key and value of a mapping, also one that comes from another by `<<`."""
    for k, v in node.value:
        if k.value == key and key != _MERGE:
            return k, v
    for k, v in node.value:
        for merged in v.value if isinstance(v, SequenceNode) else [v]:
            if k.value == _MERGE and isinstance(merged, MappingNode) and (pair := _pair(merged, key)):
                return pair
    return None


def as_read(node: Node | None) -> str:
    """Return a note if YAML took a text without quotes for something that does not look like it, else ""."""
    if not isinstance(node, ScalarNode) or node.style is not None or node.tag not in _NUMBERS_AND_SUCH:
        return ""
    value = reader().load(node.value)
    if str(value) == node.value or json.dumps(value) == node.value:
        return ""
    return f" (YAML reads {node.value} as {json.dumps(value)}; in quotes it is a text.)"


def duplicates(root: Node | None) -> Iterator[tuple[int, int, str]]:
    """Yield line, column and text of each key that its mapping has already."""
    for node in _nodes(root):
        if not isinstance(node, MappingNode):
            continue
        first: dict[str, Node] = {}
        for key, _ in node.value:
            earlier = first.setdefault(key.value, key) if isinstance(key, ScalarNode) else key
            if earlier is not key:
                at, line = key.start_mark, earlier.start_mark.line + 1
                text = f"duplicate key {key.value!r}: each key may be given once, and line {line} has it already."
                yield at.line + 1, at.column + 1, text


def holds_itself(root: Node | None) -> Node | None:
    """Return a part that stands, by an alias, inside of itself; None if there is none."""
    done: set[int] = set()

    def look(node: Node, around: frozenset[int]) -> Node | None:
        if id(node) in around:
            return node
        if id(node) in done:
            return None
        inner = around | {id(node)}
        found = next((f for child in _children(node) if (f := look(child, inner)) is not None), None)
        done.add(id(node))
        return found

    return look(root, frozenset()) if root is not None else None


def _nodes(root: Node | None) -> Iterator[Node]:
    """Yield every part of a document once, also where aliases name it again."""
    seen: set[int] = set()
    waiting = [root] if root is not None else []
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            waiting += _children(node)


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []
