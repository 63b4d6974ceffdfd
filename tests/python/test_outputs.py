"""Printing into a log that cannot grow is no error; everything else about the streams is as usual."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PRINTING = """
import os, sys
from serve_lite.outputs import drop_what_has_no_room
answers = os.dup(1)
os.dup2(log := os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND), 1)
os.dup2(log, 2)
drop_what_has_no_room()
print("a long line " * 5000)
print("grüße", file=sys.stderr)
sys.__stdout__.write("half a line")
sys.stdout.flush()
sys.stdout.buffer.write(b"bytes")
sys.stdout.flush()
os.write(answers, f"{sys.stdout.fileno()} {sys.stdout.encoding} {sys.stdout.line_buffering}".encode())
"""


def run(log: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "utf8", "-c", PRINTING, str(log)], capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_what_has_no_room_is_dropped() -> None:
    done = run(Path("/dev/full"))
    assert (done.returncode, done.stdout) == (0, "1 utf-8 True")


def test_what_has_room_is_written_in_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    assert run(log).returncode == 0
    assert log.read_text() == "a long line " * 5000 + "\ngrüße\nhalf a linebytes"
