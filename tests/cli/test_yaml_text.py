"""YAML as the command line writes it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_lite_cli.files import read_yaml
from serve_lite_cli.yaml_text import readable, to_yaml

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])) | st.sampled_from(
    [
        "yes",
        "on",
        "null",
        "~",
        "010",
        "1:30",
        "2020-01-01",
        "1e3",
        "0x1F",
        "a\nb",
        "a\n",
        " x\n y",
        "",
        "- a",
        "a: b",
    ]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(texts, values, max_size=4))
def test_what_is_written_is_read_back_the_same(value: dict[str, object]) -> None:
    assert read_yaml(to_yaml(value), "x") == value


def test_keys_stay_in_order_and_texts_of_several_lines_are_blocks() -> None:
    assert to_yaml({"z": {"b": 1, "a": []}, "message": "Traceback:\n  File", "none": None, "empty": ""}) == (
        "z:\n  b: 1\n  a: []\nmessage: |-\n  Traceback:\n    File\nnone: null\nempty: ''\n"
    )


def test_terminal_escapes_are_taken_out() -> None:
    said = {"m": "\x1b[31mred\x1b[0m \x1b]0;title\x07x", "l": ["\x1b[1A"], "n": 1}
    assert readable(said) == {"m": "red x", "l": [""], "n": 1}
