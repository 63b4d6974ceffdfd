"""Run mypy over the cases, without and with our plugin; prints one JSON object, by configuration.

    python run_mypy.py PROJECT CACHE FILE...

With the plugin it runs twice, and at first without the `across_*` cases, so that these see the other
modules as they come out of mypy's cache.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from mypy import api

SETTINGS = """
[mypy]
strict = True
disallow_any_generics = False
follow_imports = silent
"""


def main(project: str, cache: str, *files: str) -> None:
    """Check all files as projects of users would be."""
    first = [name for name in files if not Path(name).name.startswith("across_")]
    plain, with_plugin = Path(cache, "mypy.ini"), Path(cache, "plugin.ini")
    plain.write_text(SETTINGS)
    with_plugin.write_text(SETTINGS + "plugins = serve_lite.mypy_plugin\n")
    with contextlib.chdir(project):
        results = {"mypy": run(plain, first)}
        run(with_plugin, first)
        results["plugin"] = run(with_plugin, files)
    json.dump(results, sys.stdout)


def run(config: Path, files: list[str] | tuple[str, ...]) -> list[Any]:
    """Return what mypy says about the files."""
    options = ["--config-file", str(config), "--cache-dir", str(config.with_suffix(".cache"))]
    options += ["--explicit-package-bases", "--no-error-summary", "--output", "json"]
    out, err, status = api.run([*options, *files])
    if status == 2 or err:
        sys.exit(f"mypy did not get to its end ({config.stem}):\n{out}{err}")
    return [json.loads(line) for line in out.splitlines()]


if __name__ == "__main__":
    main(*sys.argv[1:])
