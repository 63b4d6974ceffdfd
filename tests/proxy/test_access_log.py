"""The access log of the doors: what a line says, that nobody can forge one, and where lines go."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.daemon.log_files import LogFile
from serve_lite.proxy import access_log
from serve_lite.proxy.access_log import AccessLog, safe
from serve_lite.proxy.options import ProxyOptions
from tests.instances import until
from tests.proxy.door import open_door

TEXT = re.compile(
    r"(?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (?P<client>\S+) (?P<id>\S+) (?P<app>\S+) (?P<method>\S+) "
    r"(?P<path>\S+) (?P<status>\S+) (?P<ms>\d+\.\d)ms (?P<bytes>\d+)"
)


class Written:
    """A log that is kept in memory."""

    def __init__(self, encoding: str = "TEXT") -> None:
        self.data = b""
        self.log = AccessLog(self.write, encoding)  # type: ignore[arg-type]

    def write(self, data: bytes) -> None:
        self.data += data

    @property
    def lines(self) -> list[str]:
        assert self.data.endswith(b"\n") or not self.data
        return self.data.decode("ascii").split("\n")[:-1]

    def told(self, *fields: str) -> list[tuple[str, ...]]:
        found = []
        for line in self.lines:
            match = TEXT.fullmatch(line)
            assert match is not None, line
            found.append(tuple(match[field] for field in fields))
        return found


@pytest.mark.parametrize("server", ["native", "hypercorn"])
async def test_a_line_for_each_request_also_for_those_that_reach_no_replica(server: str) -> None:
    kept = Written()
    async with open_door(ProxyOptions(server=server), log=kept.log) as door:  # type: ignore[arg-type]
        client = await door.connect()
        await client.get("/hello?password=secret", "X-Request-Id: one")
        await client.get("/count", "X-Request-Id: two")
        await client.close()
        door.handler.set_routes(())
        client = await door.connect()
        await client.get("/gone", "X-Request-Id: three")
        client.send(b"nonsense\r\n\r\n")
        assert (await client.answer()).status == 400
        await client.close()
    told = kept.told("client", "id", "app", "method", "path", "status", "bytes")
    assert told[:3] == [
        ("127.0.0.1", "one", "main", "GET", "/hello", "200", "5"),
        ("127.0.0.1", "two", "main", "GET", "/count", "200", "13"),
        ("127.0.0.1", "three", "-", "GET", "/gone", "404", "0"),
    ]
    assert [(line[0], *line[2:]) for line in told[3:]] == [("127.0.0.1", "-", "-", "-", "400", "0")]
    assert b"secret" not in kept.data


async def test_json_lines_have_the_same() -> None:
    kept = Written("JSON")
    async with open_door(ProxyOptions(), log=kept.log) as door:
        client = await door.connect()
        await client.get("/shop/echo?a=b", "X-Request-Id: one")
        await client.close()
    (line,) = map(json.loads, kept.lines)
    assert (
        line.pop("latency_ms") >= 0
        and line.pop("bytes") > 0
        and TEXT.match(line.pop("asctime") + " - - - - - 0 0.0ms 0")
    )
    assert line == {
        "door": "http", "client": "127.0.0.1", "request_id": "one", "application": "shop", "method": "GET",
        "path": "/shop/echo", "status": 200,
    }  # fmt: skip


@pytest.mark.parametrize("server", ["native", "hypercorn"])
async def test_a_path_cannot_forge_a_line(server: str) -> None:
    kept = Written()
    async with open_door(ProxyOptions(server=server), log=kept.log) as door:  # type: ignore[arg-type]
        client = await door.connect()
        client.send(b"GET /hello/%0aX\\x1b[31m HTTP/1.1\r\nHost: door\r\nX-Request-Id: a\r\n\r\n")
        call = await door.stage.call()
        call.take()
        call.result(200, b"", b"")
        await client.answer()
        await client.close()
    assert kept.told("path") == [("/hello/%0aX\\x5cx1b[31m",)]


@given(st.text())
def test_what_a_client_sends_is_one_word_of_printable_ascii(text: str) -> None:
    text = text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    assert re.fullmatch(r"[!-~]*", safe(text))


@given(st.text(), st.text())
def test_different_words_stay_different(one: str, other: str) -> None:
    one, other = (t.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape") for t in (one, other))
    assert (safe(one) == safe(other)) is (one == other)


async def test_writing_that_cannot_keep_up_loses_lines_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(access_log, "_MOST_WAITING", 3)
    opened, batches = threading.Event(), []

    def slow(data: bytes) -> None:
        batches.append(data.count(b"\n"))
        assert opened.wait(20)

    log = AccessLog(slow)

    def note(times: int) -> None:
        for _ in range(times):
            log.note("http", "c", b"id", "app", "GET", "/", 200, 0.0, 0)

    note(1)
    await until(lambda: batches == [1], "the first batch is being written")
    note(5)
    opened.set()
    await log.aclose()
    assert batches == [1, 3]
    assert "2 lines are missing" in caplog.text


async def test_a_disk_that_is_full_costs_lines_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    log = AccessLog(LogFile("/dev/full").write)
    log.note("http", "c", b"id", "app", "GET", "/", 200, 0.0, 0)
    await log.aclose()
    assert "1 lines of the access log are lost" in caplog.text


# --- the file -------------------------------------------------------------------------------------


def test_a_full_file_gets_a_number_and_a_new_one_begins(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    file = LogFile(str(path), most_bytes=20)
    for number in range(12):
        file.write(b"line %04d\n" % number)
    file.close()
    kept = sorted(p.name for p in tmp_path.iterdir())
    assert kept == ["access.log", "access.log.1", "access.log.2", "access.log.3"]
    assert path.read_text() == "line 0010\nline 0011\n"
    assert (tmp_path / "access.log.1").read_text() == "line 0008\nline 0009\n"


def test_two_processes_may_write_into_one_file_and_it_may_be_moved(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    one, other = LogFile(str(path), most_bytes=20), LogFile(str(path), most_bytes=20)
    for number in range(6):
        (one, other)[number % 2].write(b"line %04d\n" % number)
    texts = [p.read_text() for p in sorted(tmp_path.iterdir(), reverse=True)]
    assert "".join(texts) == "".join(f"line {number:04d}\n" for number in range(6))
    os.rename(path, tmp_path / "moved")
    one.write(b"after\n")
    assert path.read_text() == "after\n"
    one.close()
    other.close()
