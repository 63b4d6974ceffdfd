"""The token of a state directory, for tests of the gate."""

from __future__ import annotations

from pathlib import Path

from serve_lite.daemon.home import paths
from serve_lite.daemon.token import Tokens, write_token

TOKEN = "0123456789abcdef"


def tokens_in(home: Path) -> Tokens:
    """Return the tokens of an instance that has `TOKEN`."""
    where = paths(str(home))
    write_token(where, TOKEN)
    return Tokens(where)
