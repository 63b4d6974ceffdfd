"""`@serve.ingress` with an older FastAPI than the installed one: the same tests, in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OLDER = ROOT / ".venvs" / "older-fastapi"

pytestmark = pytest.mark.skipif(
    not (OLDER / ".installed").exists(), reason=f"no older FastAPI in {OLDER}; `make test` installs it"
)


def run_with_older_fastapi(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(OLDER)},
        capture_output=True,
        text=True,
    )


def test_the_folder_holds_the_version_that_was_asked_for() -> None:
    asked = (Path(__file__).parent / "older-fastapi.txt").read_text()
    told = run_with_older_fastapi("-c", "import fastapi; print(fastapi.__version__)").stdout.strip()
    assert f"fastapi=={told}\n" in asked


@pytest.mark.parametrize(
    "files",
    [
        "tests/python/test_ingress.py tests/python/test_ingress_by_value.py",
        pytest.param("tests/api/test_ingress_of_an_instance.py", marks=pytest.mark.processes),
    ],
)
@pytest.mark.timeout(300)
def test_the_tests_of_ingress_pass(files: str) -> None:
    done = run_with_older_fastapi("-m", "pytest", "-q", "-p", "no:cacheprovider", *files.split())
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert " passed" in done.stdout and " skipped" not in done.stdout
