"""The suite measures serve-lite: one quick run of a few rows, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.loads import websockets
from benchmarks.loads.websockets import MESSAGE, masked_frame

ROOT = Path(__file__).resolve().parents[2]
ROWS = ("start", "idle", "noop", "handle", "websocket", "calls")


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_a_quick_run_has_every_figure_of_its_rows_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "BENCHMARK_RESULTS": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "benchmarks", "run", "--quick", "--contenders", "serve-lite"]
    done = subprocess.run(
        [*command, "--rows", ",".join(ROWS)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (raw,) = (tmp_path / "raw").iterdir()
    document = json.loads(raw.read_text())
    assert document["ended"] == "complete"
    figures = {key: value for sample in document["samples"] for key, value in sample["figures"].items()}
    assert {sample["row"] for sample in document["samples"]} == set(ROWS)
    assert {"start_s", "idle_pss_mb", "noop_per_s_at_256", "handle_p50_ms", "websocket_per_s"} <= set(figures)
    assert all(value > 0 for key, value in figures.items() if key != "idle_cpu_percent"), figures
    assert [path.name for path in tmp_path.iterdir()] == ["raw"], "what was started has been removed"

    report = [sys.executable, "-m", "benchmarks", "report", str(raw), "--output", str(tmp_path / "page")]
    subprocess.run(report, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=60)
    page = (tmp_path / "page" / "latest.md").read_text()
    assert "| start command to first answer |" in page
    assert "](idle.svg)" in page and (tmp_path / "page" / "idle.svg").exists()


@pytest.mark.processes
@pytest.mark.timeout(120)
def test_a_run_that_is_told_to_end_keeps_what_it_has_and_leaves_no_process(tmp_path: Path) -> None:
    environment = {**os.environ, "BENCHMARK_RESULTS": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "benchmarks", "run", "--quick", "--contenders", "serve-lite"]
    with (tmp_path / "output").open("wb") as output:
        run = subprocess.Popen([*command, "--rows", "start,noop"], cwd=ROOT, env=environment, stdout=output)
    try:
        give_up_at = time.monotonic() + 60
        while not any(sample["row"] == "start" for sample in _samples(tmp_path)):
            assert run.poll() is None and time.monotonic() < give_up_at, (tmp_path / "output").read_text()
            time.sleep(0.05)
        started = psutil.Process(run.pid).children(recursive=True)
        run.terminate()
        run.wait(timeout=60)
    finally:
        run.kill()
        run.wait()
    assert len(started) >= 4, "keeper, daemon, template and replica"
    assert psutil.wait_procs(started, timeout=0)[1] == []
    (raw,) = (tmp_path / "raw").iterdir()
    assert json.loads(raw.read_text())["ended"] == "interrupted"
    assert "interrupted; what was measured is kept" in (tmp_path / "output").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output", "raw"]


def _samples(folder: Path) -> list[dict[str, Any]]:
    """Return what a run has saved so far."""
    found: list[dict[str, Any]] = []
    for raw in folder.glob("raw/*.json"):
        found += json.loads(raw.read_text())["samples"]
    return found


def test_a_frame_of_a_client_is_masked() -> None:
    frame = masked_frame(MESSAGE)
    kind, length, key, masked = frame[0], frame[1], frame[2:6], frame[6:]
    assert (kind, length) == (0x82, 0x80 | len(MESSAGE))
    assert bytes(byte ^ key[i % 4] for i, byte in enumerate(masked)) == MESSAGE
    with pytest.raises(ValueError, match="longer"):
        masked_frame(b"x" * 126)


async def test_an_echo_of_something_else_is_an_error_and_an_echo_in_pieces_is_none() -> None:
    good = struct.pack("!BB", 0x82, len(MESSAGE)) + MESSAGE
    bad = good[:-1] + b"?"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, echo: bytes) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        try:
            while True:
                await reader.readexactly(len(masked_frame(MESSAGE)))
                for piece in (echo[:7], echo[7:]):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    for echo, has_errors in ((good, False), (bad, True)):
        server = await asyncio.start_server(lambda r, w, e=echo: answer(r, w, e), "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            seen = await websockets.run(port, "/echo", connections=2, seconds=0.2)
        assert bool(seen.errors) is has_errors
        assert (seen.requests > seen.errors) is not has_errors
