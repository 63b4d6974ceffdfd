"""The entry point of `serve` and `serve-lite`: the short way for `serve run`, typer for everything else.

Exit codes: 0 done, 1 failed, 2 used wrongly. A user's mistake is one `Error:` line; a traceback is ours to mend.
"""

from __future__ import annotations

import os
import sys

from serve_lite.exceptions import ServeLiteError
from serve_lite_cli.quick import read_command_line


def app() -> None:
    """Run the command line of this process, and exit."""
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except ServeLiteError as error:
        print(f"Error: {error}", file=sys.stderr)
        code = 1
    except BrokenPipeError:  # `serve status | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def main(words: list[str]) -> int:
    """Run a command line; return the exit code.

    Raises:
        ServeLiteError: it failed for a reason that its user can mend.
    """
    plain = read_command_line(words[1:]) if words[:1] == ["run"] else None
    if plain is not None:
        from serve_lite_cli.runner import run  # only this command's modules are loaded

        return run(plain)
    from serve_lite_cli.program import run_program  # typer, and only the asked command's modules

    return run_program(words)


if __name__ == "__main__":
    app()
