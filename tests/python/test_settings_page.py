"""docs/settings.md lists every option as the code has it.

`python -m tests.python.test_settings_page` writes its table anew.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from ruamel.yaml import YAML

from serve_lite.daemon.options import InstanceOptions
from serve_lite.daemon.settings import BY_NAME, OPTIONS

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
MARKS = re.compile(r"(<!-- options: .*? -->\n).*?(<!-- end -->)", re.DOTALL)


def table() -> str:
    """Return the table of all options, as Markdown."""
    lines = ["| option | default | variable | |", "|---|---|---|---|"]
    for option in OPTIONS:
        default = json.dumps(option.value_in(InstanceOptions()))
        variables = " ".join(f"`{name}`" for name in (option.variable, *(name for name, _ in option.foreign)))
        flag = f"; `{option.flag}`" if option.flag else ""
        lines.append(f"| `{option.name}` | `{default}` | {variables} | {option.about}{flag} |")
    return "\n".join(lines) + "\n"


def written(page: str) -> str:
    return MARKS.sub(lambda marks: f"{marks[1]}\n{table()}\n{marks[2]}", page)


def test_the_page_lists_every_option_as_the_code_has_it() -> None:
    page = PAGE.read_text()
    assert MARKS.search(page)
    assert page == written(page), "run python -m tests.python.test_settings_page"


def test_the_page_s_example_is_a_settings_file() -> None:
    [example] = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for key, value in YAML(typ="safe", pure=True).load(example).items():
        names = [f"{key}.{inner}" for inner in value] if isinstance(value, dict) else [key]
        assert set(names) <= BY_NAME.keys()


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
