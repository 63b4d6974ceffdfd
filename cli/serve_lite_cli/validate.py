"""`serve validate`: whether a config file would be accepted, without any instance."""

from __future__ import annotations

from typing import Annotated

import typer

from serve_lite_cli.flags import JsonOption
from serve_lite_cli.output import print_json
from serve_lite_cli.submission import read_submission


def command(
    config_file_name: Annotated[
        str,
        typer.Argument(metavar="FILE", help="YAML file with `applications:`, or with one `import_path:`."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Check a config file, without importing its applications and without changing anything.

    Prints every mistake with its file, line and column, and ends with 1 if there is one.

    With --json: {"valid": true, "applications": [NAME, ...]}.
    """
    submission = read_submission(config_file_name)
    submission.tell_notice()
    if as_json:
        print_json({"valid": True, "applications": submission.names})
        return
    count = len(submission.names)
    print(f"{config_file_name} is valid: {count} application{'' if count == 1 else 's'}.")
