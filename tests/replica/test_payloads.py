"""What is told of a pickle without loading it."""

from __future__ import annotations

import decimal
import enum
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.replica.payloads import describe
from serve_lite.shipping import dump_value

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5)
)
HASHABLE = st.recursive(
    PLAIN, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=4), max_leaves=6
)
VALUES = st.recursive(
    HASHABLE | st.sets(HASHABLE, max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(HASHABLE, inner, max_size=4) | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


def digest(value: Any) -> str:
    return describe(dump_value(value, what="a value")).digest


@given(value=VALUES)
def test_a_copy_has_the_digest_of_the_original(value: Any) -> None:
    data = dump_value(value, what="a value")
    assert describe(data).digest == describe(data).digest
    assert digest([value]) != digest([value, value])
    assert digest([value]) != digest((value,))


@given(elements=st.lists(HASHABLE, max_size=30), data=st.data())
def test_the_order_in_which_a_set_was_filled_does_not_count(elements: list[Any], data: Any) -> None:
    other = data.draw(st.permutations(elements))
    assert digest([set(elements)]) == digest([set(other)])
    assert digest(frozenset(elements)) == digest(frozenset(other))


@given(first=VALUES, second=VALUES)
def test_different_values_have_different_digests(first: Any, second: Any) -> None:
    assert digest(first) != digest(second) or first == second


def test_what_is_shared_is_told_from_what_is_equal_and_a_circle_ends() -> None:
    shared: list[Any] = [1]
    assert digest([shared, shared]) != digest([[1], [1]])
    circle: list[Any] = []
    circle.append(circle)
    assert digest(circle) == digest(circle) != digest([[]])


def test_what_is_too_deep_for_us_is_compared_byte_by_byte() -> None:
    deep: Any = "bottom"
    for _ in range(5000):
        deep = (deep,)
    data = b"".join([pickle.PROTO, b"\x05", pickle.NONE, pickle.TUPLE1 * 5000, pickle.STOP])
    assert describe(data).digest != describe(data[:-2] + pickle.STOP).digest


def test_an_unknown_opcode_is_compared_byte_by_byte() -> None:
    assert describe(pickle.dumps([1], protocol=0)).digest != describe(pickle.dumps([2], protocol=0)).digest


OBJECTS = [
    decimal.Decimal("1.5"),
    OrderedDict(a=1, b=[2]),
    PurePosixPath("/a/b"),
    bytearray(b"x" * 10),
    {"k": b"y" * 70_000},
    1 << 3000,
    list(range(3000)),
    set(range(3000)),
    {n: str(n) for n in range(3000)},
    slice(1, 2),
    ("a", "b", "c", "d"),
]


@pytest.mark.parametrize("value", OBJECTS, ids=lambda value: type(value).__name__)
def test_the_pickles_of_the_standard_library_are_read(value: Any) -> None:
    assert digest(value) == digest(pickle.loads(pickle.dumps(value)))


def test_the_modules_of_what_travels_by_name_are_told() -> None:
    modules = describe(dump_value([decimal.Decimal(1), PurePosixPath("json")], what="values")).modules
    assert "decimal" in modules
    assert "json" not in modules


def test_the_modules_that_code_by_value_uses_are_told() -> None:
    import json

    def function() -> str:
        return json.dumps(decimal.Decimal(1))

    modules = describe(dump_value(function, what="a function")).modules
    assert {"json", "decimal", __name__} <= modules


BY_VALUE = """
import enum, sys
from serve_lite.replica.payloads import describe
from serve_lite.shipping import dump_value

def make(number):
    class Base: pass
    class Local(Base):
        words = {"a", "b", "c", "d", "e", "f"}
        def method(self): return number in {1, 2, 3} or [Kind, "x" in {"u", "v", "w", "x"}]
    class Kind(enum.Enum):
        one = 1
    return Local, Local(), Kind.one, {Base, Local, Kind, "w"}, lambda: Kind.one

print(describe(dump_value(make(int(sys.argv[1])), what="values")).digest)
"""


def test_classes_by_value_and_sets_have_the_same_digest_in_every_process(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(BY_VALUE)

    def told(number: str, seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, str(program), number]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert told("1", "1") == told("1", "2") == told("1", "3")
    assert told("1", "1") != told("2", "1")


class Colour(enum.Enum):
    RED = 1


def test_an_enum_of_a_module_travels_by_name() -> None:
    assert __name__ in describe(dump_value(Colour.RED, what="a value")).modules
