"""YAML for people: block style, keys in the order given, long texts as literal blocks."""

from __future__ import annotations

import io
import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

#: Colours and cursor movements in user code's output, which would repaint the terminal.
ANSI_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")

#: Texts that a YAML 1.1 reader, as Ray's and ours, would take for a truth value, a number or a date.
LOOKS_LIKE_OTHER = re.compile(r"(?i)y|n|yes|no|on|off|true|false|null|~|[-+.\d][-+.:\d_eboxtz ]*")
TEXT_TAG = "tag:yaml.org,2002:str"


def to_yaml(value: Any) -> str:
    """Return `value` (JSON's types) as one YAML document that ends in a newline."""
    writer = YAML(typ="safe", pure=True)
    writer.Representer = _Representer
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # documented as a switch
    writer.width = 1_000_000
    out = io.StringIO()
    writer.dump(value, out)
    return out.getvalue()


def readable(value: Any) -> Any:
    """Return `value` with every text in it fit for a terminal: no escapes, tabs or blanks at line ends.

    Also what YAML needs to write a text of several lines as it looks, without escapes of its own.
    """
    match value:
        case str():
            text = ANSI_ESCAPE.sub("", value)
            return "\n".join(line.expandtabs().rstrip() for line in text.split("\n"))
        case dict():
            return {key: readable(item) for key, item in value.items()}
        case list():
            return [readable(item) for item in value]
        case _:
            return value


class _Representer(SafeRepresenter):
    """Writes texts of several lines as literal blocks, and no anchors for values that occur twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, data: str) -> ScalarNode:
        style = "|" if "\n" in data else "'" if LOOKS_LIKE_OTHER.fullmatch(data) else None
        node: ScalarNode = self.represent_scalar(TEXT_TAG, data, style=style)
        return node


_Representer.add_representer(str, _Representer.represent_text)
