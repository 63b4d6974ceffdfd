"""What README.md shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

from serve_lite.schema import ApplicationStatus
from tests.instances import Instance

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


async def test_the_quick_start_answers_what_it_prints(daemon: Instance, tmp_path: Path) -> None:
    tmp_path.joinpath("hello.py").write_text(quoted(r"```python\n(# hello\.py.*?)```"))
    status = await daemon.deploy("hello:app", folder=tmp_path)
    assert status.applications["default"].status == ApplicationStatus.RUNNING

    path = quoted(r'curl "http://127\.0\.0\.1:8000(/[^"]*)"')
    answer = quoted(r'curl "http[^"]*"\n(.*?)\n')
    assert (await daemon.http.get(path)).text == answer


def quoted(pattern: str) -> str:
    found = re.search(pattern, README, re.DOTALL)
    assert found is not None, f"README.md has nothing like {pattern}"
    return found[1]
