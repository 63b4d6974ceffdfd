from __future__ import annotations

import signal
from pathlib import Path

import pytest

from serve_lite.controller.child import ExitInfo
from serve_lite.controller.oom import count_oom_kills, explain_kill

KILLED = ExitInfo(signal=signal.SIGKILL)


def test_the_kernels_count_is_read(tmp_path: Path) -> None:
    file = tmp_path / "vmstat"
    file.write_text("pgfault 1\noom_kill_other 9\noom_kill 7\n")
    assert count_oom_kills(str(file)) == 7
    file.write_text("pgfault 1\n")
    assert count_oom_kills(str(file)) is None
    assert count_oom_kills(str(tmp_path / "none")) is None


def test_a_kill_is_explained_if_memory_ran_out_meanwhile() -> None:
    assert explain_kill(KILLED, 3, 4).startswith(" (memory ran out:")


@pytest.mark.parametrize(
    ("info", "before", "now"),
    [
        (KILLED, 3, 3),
        (KILLED, None, 4),
        (KILLED, 3, None),
        (ExitInfo(signal=signal.SIGSEGV), 3, 4),
        (ExitInfo(code=1), 3, 4),
    ],
)
def test_other_ends_are_not(info: ExitInfo, before: int | None, now: int | None) -> None:
    assert explain_kill(info, before, now) == ""
