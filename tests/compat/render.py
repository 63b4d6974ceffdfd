"""docs/compatibility.md from `table.yaml`: `python -m tests.compat.render` writes it, `make docs` calls that."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from tests.compat.table import IN_PACKAGE, ROOT, Group, Line, lines_of, read

PAGE = ROOT / "docs" / "compatibility.md"

_HEAD = """\
<!-- Made by `make docs` from tests/compat/table.yaml; change it there. -->

# Compatibility with Ray Serve

What Ray Serve's Python API and command line have, what serve-lite has, and what it does otherwise. Two generations
are meant: 2.7 and 2.60, the present one; "both" is in both, "ours" in neither. A test checks every name, signature
and default on this page against the package, and that the tests and programs exist that it links to.
[decisions.md](decisions.md) tells the larger choices between the generations.
"""

_LONG = 90  #: a signature above this is told by its parameters only


def page(groups: Sequence[Group]) -> str:
    """Return the whole page."""
    lines = [line for group in groups for line in lines_of(group)]
    parts = [_HEAD, _summary(lines), _contents(groups)]
    parts += [_section(group) for group in groups]
    return "\n".join(parts)


def _summary(lines: Sequence[Line]) -> str:
    count = Counter(line.entry.status for line in lines)
    differing = sum(line.entry.difference is not None for line in lines)
    planned = ", ".join(f"`{line.name}`" for line in lines if line.entry.status == "planned")
    return (
        f"{len(lines)} entries: {count['done']} are there, {differing} of them with a difference that is told; "
        f"{count['left out']} are left out on purpose, each with what to use instead; "
        f"{count['planned']} come later ({planned}).\n"
    )


def _contents(groups: Sequence[Group]) -> str:
    links = [f"[{group.title}](#{_anchor(group.title)})" for group in groups]
    return " · ".join(links) + "\n"


def _anchor(title: str) -> str:
    kept = (c for c in title.lower() if c.isalnum() or c in " -")
    return "".join(kept).replace(" ", "-")


def _section(group: Group) -> str:
    rows = [_row(line) for line in lines_of(group)]
    about = f"{group.about}\n\n" if group.about else ""
    table = "\n".join(["| name | in | what it is | here |", "|---|---|---|---|", *rows])
    return f"## {group.title}\n\n{about}{table}\n"


def _row(line: Line) -> str:
    return f"| {_name(line)} | {line.since} | {_behaviour(line)} | {_here(line)} |"


def shown_name(line: Line) -> str:
    """Return the name as the page has it: of a part, with its owner's last name in front."""
    if line.parent is None:
        return line.name
    if line.kind == "flag":
        return f"{line.parent.entry.name} {line.entry.name}"
    return f"{line.parent.entry.name.rpartition('.')[2]}.{line.entry.name}"


def _name(line: Line) -> str:
    entry = line.entry
    if line.kind not in IN_PACKAGE and line.parent is None:
        return (
            f"`{line.name}`" if line.kind in ("command", "environment", "header", "hook") else cell(line.name)
        )
    shown = f"`{shown_name(line)}`"
    if entry.signature is not None:
        is_short = len(entry.signature) <= _LONG
        return f"`{shown_name(line)}{cell(entry.signature) if is_short else '(...)'}`"
    if entry.default is not msgspec.UNSET:
        shown += f" = `{_value(entry.default)}`"
    return shown


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return repr(value)
    return cell("DEFAULT" if value == "DEFAULT" else json.dumps(value))


def _behaviour(line: Line) -> str:
    text = cell(line.entry.behaviour)
    if line.entry.values is not None:
        text += " " + ", ".join(f"`{value}`" for value in line.entry.values.split(", ")) + "."
    if line.entry.bases is not None:
        text += f" Is a {cell(line.entry.bases)}."
    return f"{text} {_links(line.checks)}".rstrip()


def _links(checks: Sequence[str]) -> str:
    """Return what shows an entry: [test 1, 2, program 1], each a link with the name as its title."""
    shown: list[str] = []
    for word, is_test in (("test", True), ("program", False)):
        chosen = [check for check in checks if ("::" in check) is is_test]
        links = [_link(check, str(i)) for i, check in enumerate(chosen, 1)]
        if links:
            shown.append(f"{word} {' '.join(links)}")
    return f"<sub>{', '.join(shown)}</sub>" if shown else ""


def _link(check: str, text: str) -> str:
    path, _, test = check.partition("::")
    return f'[{text}](../tests/{path} "{test or path.rpartition("/")[2]}")'


def _here(line: Line) -> str:
    entry = line.entry
    told = [cell(entry.difference)] if entry.difference else []
    match entry.status:
        case "left out":
            told.insert(0, "**Left out.**")
            told.append(f"Use instead: {cell(entry.instead or '')}.")
        case "planned":
            told.insert(0, "**Not yet.**")
    if entry.why:
        told.append(f"*{cell(entry.why)}*")
    return " ".join(told)


def cell(text: str) -> str:
    """Return text that a cell of a table can hold."""
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    PAGE.write_text(page(read()))
