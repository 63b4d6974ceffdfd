"""The types that users see: every case file, under mypy, mypy with the plugin, and pyright."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.typing.expectations import CHECKERS, Finding, checkers_of, expected, plain

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CASES = sorted((HERE / "cases").glob("[a-z]*.py"))

Found = dict[Path, list[Finding]]


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """What each checker finds in each case."""
    directory = tmp_path_factory.mktemp("types")
    return {**run_mypy(directory), "pyright": run_pyright(directory)}


def run_mypy(directory: Path) -> dict[str, Found]:
    """Run mypy, once for both configurations."""
    command = [sys.executable, str(HERE / "run_mypy.py"), str(ROOT), str(directory), *map(str, CASES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return {name: collect(map(of_mypy, said)) for name, said in json.loads(done.stdout).items()}


def of_mypy(said: dict[str, Any]) -> tuple[Path, Finding] | None:
    """Return a finding of mypy, None for a note that only explains one."""
    path, line, message = ROOT / said["file"], said["line"], said["message"]
    if said["severity"] == "error":
        return path, Finding(line, "error", said["code"], message)
    revealed = re.fullmatch(r'Revealed type is "(.*)"', message)
    return (path, Finding(line, "reveals", plain(revealed[1]))) if revealed else None


def run_pyright(directory: Path) -> Found:
    """Run pyright as it comes: its own standard mode."""
    config = directory / "pyrightconfig.json"
    config.write_text(
        json.dumps(
            {
                "include": [str(HERE / "cases")],
                "extraPaths": [str(ROOT)],
                "typeCheckingMode": "standard",
                "pythonVersion": "3.11",
            }
        )
    )
    command = [
        *(sys.executable, "-m", "basedpyright", "--outputjson"),
        *("--project", str(config), "--pythonpath", sys.executable),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return collect(map(of_pyright, json.loads(done.stdout)["generalDiagnostics"]))


def of_pyright(said: dict[str, Any]) -> tuple[Path, Finding] | None:
    """Return a finding of pyright."""
    path, line, message = Path(said["file"]), said["range"]["start"]["line"] + 1, said["message"]
    if said["severity"] != "information":
        return path, Finding(line, "error", said.get("rule", "syntax"), message)
    revealed = re.fullmatch(r'Type of ".*" is "(.*)"', message, re.DOTALL)
    return (path, Finding(line, "reveals", plain(revealed[1]))) if revealed else None


def collect(said: Iterator[tuple[Path, Finding] | None]) -> Found:
    """Return findings by file."""
    found: Found = {case: [] for case in CASES}
    for item in said:
        if item is not None:
            found.setdefault(item[0], []).append(item[1])
    return found


@pytest.mark.parametrize(
    ("case", "checker"),
    [pytest.param(c, k, id=f"{c.stem}-{k}") for c in CASES for k in CHECKERS if k in checkers_of(c)],
)
def test_case(findings: dict[str, Found], case: Path, checker: str) -> None:
    wanted, found = expected(case, checker), findings[checker][case]
    assert wanted, "a case that expects nothing shows nothing"
    missing = sorted(set(wanted) - set(found), key=lambda f: f.line)
    surplus = sorted(set(found) - set(wanted), key=lambda f: f.line)
    lines = [f"{case.name}:{f.line}: expected: {f.kind} {f.what}" for f in missing]
    lines += [f"{case.name}:{f.line}: found: {f.kind} {f.what}: {f.message}" for f in surplus]
    for want in wanted:
        messages = [f.message for f in found if f == want]
        if messages and not any(want.message in message for message in messages):
            lines.append(f"{case.name}:{want.line}: expected {want.message!r}, found {messages}")
    assert not lines, "\n".join(lines)


def test_nothing_is_found_elsewhere(findings: dict[str, Found]) -> None:
    for checker, found in findings.items():
        assert set(found) == set(CASES), f"{checker} found something outside the cases"


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.stem)
def test_cases_run(case: Path) -> None:
    """What the cases write in annotations and decorators works at run time too."""
    importlib.import_module(f"tests.typing.cases.{case.stem}")
