"""What the case files say type checkers must find, and the two sides of the comparison in one form.

    reveal_type(x)  #: int                            every checker reveals int
    reveal_type(x)  #: Any; plugin int                mypy with the plugin reveals something better
    reveal_type(x)  #: int; mypy nothing; mypy! attr-defined    plain mypy complains instead
    f("a")  #! mypy call-arg; pyright reportCallIssue       errors, by checker and code
    f("a")  #! plugin arg-type expected "int"               and a part of the message

Long ones stand in lines of their own above the code. A first line `# checked by: plugin` limits a file to
some of the checkers. What is not announced must not be found, so a case without a comment is one that
every checker accepts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

CHECKERS = ("mypy", "plugin", "pyright")

_NEXT = re.compile(r"; (?=(?:mypy|plugin|pyright)!? )")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a checker said, or should say."""

    line: int
    kind: str  #: "reveals" or "error"
    what: str  #: the type, or the code
    message: str = dataclasses.field(default="", compare=False)


def checkers_of(case: Path) -> tuple[str, ...]:
    """Return the checkers that a case is meant for."""
    first, _, _ = case.read_text().partition("\n")
    names = first.removeprefix("# checked by: ")
    return CHECKERS if names == first else tuple(names.split(", "))


def expected(case: Path, checker: str) -> list[Finding]:
    """Return what the case file announces for this checker."""
    found: list[Finding] = []
    above: list[str] = []
    for number, line in enumerate(case.read_text().splitlines(), start=1):
        mark = re.search(r"#[:!] .+$", line)
        if mark is not None and line.strip() == mark[0]:
            above.append(mark[0])
            continue
        notes = [*above, mark[0]] if mark is not None else above
        for sign in ("#: ", "#! "):
            texts = [note.removeprefix(sign) for note in notes if note.startswith(sign)]
            if texts:
                found += _announced(number, sign, "; ".join(texts), checker)
        above = []
    return found


def _announced(line: int, sign: str, text: str, checker: str) -> Iterable[Finding]:
    parts = _NEXT.split(text)
    if sign == "#: ":
        revealed = parts.pop(0)
        for part in parts:
            name, _, rest = part.partition(" ")
            if name == checker:
                revealed = rest
            elif name == f"{checker}!":
                yield Finding(line, "error", rest)
        if revealed != "nothing":
            yield Finding(line, "reveals", revealed)
        return
    for part in parts:
        name, _, rest = part.partition(" ")
        if name != checker:
            continue
        if name == "pyright":
            yield from (Finding(line, "error", code) for code in rest.split())
        else:
            code, _, message = rest.partition(" ")
            yield Finding(line, "error", code, message)


def plain(text: str) -> str:
    """Return a type as every checker would write it: no modules, `def` or quirks of names."""
    text = re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)
    text = text.replace("def (", "(").replace("CoroutineType[", "Coroutine[")
    return text.replace("Unknown", "Any")
