"""The pages of docs/ that are made from code: `python -m tests.docs.render` writes them, `make docs` calls that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.docs import cli_page, rest_page

DOCS = Path(__file__).parents[2] / "docs"

#: What makes each page.
PAGES: Mapping[Path, Callable[[], str]] = {
    DOCS / "rest.md": rest_page.page,
    DOCS / "cli.md": cli_page.page,
}

if __name__ == "__main__":
    for path, page in PAGES.items():
        path.write_text(page())
