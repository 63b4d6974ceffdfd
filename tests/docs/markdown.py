"""Small pieces of Markdown that several pages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def cell(text: str) -> str:
    """Return text that a cell of a table can hold."""
    return " ".join(text.replace("|", "\\|").split())


def code(text: str) -> str:
    """Return text as code, whatever is in it."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; columns that are empty in every row are left out."""
    rows = list(rows)
    kept = [i for i in range(len(titles)) if any(row[i] for row in rows)]
    lines = [[titles[i] for i in kept], ["---" for _ in kept]]
    lines += [[cell(row[i]) for i in kept] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def anchor(title: str) -> str:
    """Return where a title is found on its page."""
    return "".join(c for c in title.lower() if c.isalnum() or c in "-_ ").replace(" ", "-")
