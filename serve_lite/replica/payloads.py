"""What is in a pickle, told without loading it: a digest that equal values share, and the modules it refers to.

Two pickles of equal values need not have equal bytes: the elements of a set come in another order in another
process, and cloudpickle numbers the classes it sends by value at random. So a pickle is read here as the tree that
its opcodes build, sets are sorted by what is in them, and those numbers are left out.
"""

from __future__ import annotations

import hashlib
import pickletools
import re
from typing import Any

import msgspec

#: How cloudpickle marks classes, enums and type variables: `uuid4().hex`.
_RANDOM_NAME = re.compile(r"[0-9a-f]{32}")


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a pickle."""

    digest: str
    modules: frozenset[str]  #: whose functions and classes are in it by name; more names may be among them


class _UnknownOpcodeError(Exception):
    """An opcode that our own pickles do not hold; an object with a pickle of its own may bring it."""


class _Node:
    """An object that the pickle makes. Everything but plain values is one."""

    __slots__ = ("added", "kind", "parts")

    def __init__(self, kind: str, *parts: Any) -> None:
        self.kind = kind
        self.parts: list[Any] = list(parts)  #: what it is made from: nodes and plain values
        self.added: list[tuple[str, Any]] = []  #: what is put into it later, by opcode


_MARK = _Node("mark")

_PLAIN = frozenset(
    """BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT SHORT_BINUNICODE BINUNICODE BINUNICODE8
    SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8""".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": "list", "EMPTY_DICT": "dict", "EMPTY_SET": "set", "EMPTY_TUPLE": "tuple"}
_FROM_MARK = {"TUPLE": "tuple", "FROZENSET": "set", "LIST": "list", "DICT": "dict"}
#: Made from so many objects on the stack.
_FROM_STACK = {
    "TUPLE1": ("tuple", 1),
    "TUPLE2": ("tuple", 2),
    "TUPLE3": ("tuple", 3),
    "STACK_GLOBAL": ("global", 2),
    "REDUCE": ("call", 2),
    "NEWOBJ": ("object", 2),
    "NEWOBJ_EX": ("object", 3),
}
_ADDING = {"APPEND": 1, "SETITEM": 2, "BUILD": 1}  #: that many objects to the one below them
_ADDING_FROM_MARK = frozenset({"APPENDS", "SETITEMS", "ADDITEMS"})


def describe(data: bytes) -> Payload:
    """Return what is known of a pickle. Not for pickles from strangers: size and depth are not bounded."""
    try:
        root = _read(data)
        digest = hashlib.sha256()
        _feed(root, digest, {})
        return Payload(digest=digest.hexdigest(), modules=_modules(data, root))
    except (_UnknownOpcodeError, RecursionError):
        return Payload(digest=hashlib.sha256(data).hexdigest(), modules=_texts(data))


def _read(data: bytes) -> Any:
    """Return the tree that the opcodes build."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in _PLAIN:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in _EMPTY:
            stack.append(_Node(_EMPTY[name]))
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _FROM_MARK:
            stack.append(_Node(_FROM_MARK[name], *_pop_to_mark(stack)))
        elif name in _FROM_STACK:
            kind, count = _FROM_STACK[name]
            stack.append(_Node(kind, *_pop(stack, count)))
        elif name in _ADDING:
            parts = _pop(stack, _ADDING[name])
            stack[-1].added += [(name, part) for part in parts]
        elif name in _ADDING_FROM_MARK:
            parts = _pop_to_mark(stack)
            stack[-1].added += [(name, part) for part in parts]
        elif name == "POP":
            _keep_effect(stack.pop())
        elif name == "POP_MARK":
            _pop_to_mark(stack)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise _UnknownOpcodeError(name)
    return stack.pop()


def _keep_effect(dropped: Any) -> None:
    """Note a call whose result is thrown away with the object that it changes, its first argument.

    So pickle sets the state of objects that bring a function for it.
    """
    match dropped:
        case _Node(kind="call", parts=[_, _Node(parts=[_Node() as changed, *_])]):
            changed.added.append(("CALL", dropped))


def _pop(stack: list[Any], count: int) -> list[Any]:
    parts = stack[-count:]
    del stack[-count:]
    return parts


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    parts = []
    while (top := stack.pop()) is not _MARK:
        parts.append(top)
    return parts[::-1]


def _feed(value: Any, digest: Any, seen: dict[int, int]) -> None:
    """Add a value to the digest; an object that was there already as the number it had then."""
    if not isinstance(value, _Node):
        digest.update(f"{type(value).__name__} {value!r}\n".encode(errors="surrogatepass"))
        return
    if id(value) in seen:
        digest.update(f"again {seen[id(value)]}\n".encode())
        return
    seen[id(value)] = len(seen)
    digest.update(f"{value.kind} {len(value.parts)} {len(value.added)}\n".encode())
    if value.kind == "set":
        elements = [*value.parts, *(part for _, part in value.added)]
        for text in sorted(_digest(element, seen) for element in elements):
            digest.update(text)
        return
    parts = _without_random_names(value)
    for part in parts:
        _feed(part, digest, seen)
    for name, part in value.added:
        digest.update(f"{name}\n".encode())
        _feed(part, digest, seen)


def _digest(value: Any, seen: dict[int, int]) -> bytes:
    """Return the digest of one element of a set, which does not depend on the others."""
    digest = hashlib.sha256()
    _feed(value, digest, dict(seen) if isinstance(value, _Node) else seen)
    return digest.digest()


def _without_random_names(node: _Node) -> list[Any]:
    """Return the parts of a node, without the numbers that cloudpickle draws."""
    match node.kind, node.parts:
        case "call", [
            _Node(kind="global", parts=["cloudpickle.cloudpickle", _]) as function,
            _Node() as given,
        ]:
            kept = [
                "" if isinstance(part, str) and _RANDOM_NAME.fullmatch(part) else part for part in given.parts
            ]
            return [function, *kept]
    return node.parts


def _modules(data: bytes, root: Any) -> frozenset[str]:
    """Return the modules of everything that is referred to by name.

    Code that travels by value names its module, and those it uses, in texts among other texts; then all texts count.
    """
    modules: set[str] = set()
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, _Node) or id(node) in seen:
            continue
        seen.add(id(node))
        waiting += [*node.parts, *(part for _, part in node.added)]
        if node.kind == "global" and isinstance(node.parts[0], str):
            modules.add(node.parts[0])
    return _texts(data) if "cloudpickle.cloudpickle" in modules else frozenset(modules)


def _texts(data: bytes) -> frozenset[str]:
    return frozenset(argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str))
