"""Through both fronts: an application sees exactly the requests that were sent, however they are cut."""

from __future__ import annotations

import asyncio
import random

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_lite.proxy.options import ProxyOptions
from serve_lite.proxy.rewriting import RequestRewriter
from tests.proxy.corpus import FINE, MALFORMED
from tests.proxy.door import PATIENCE_S, Client, Door, open_door
from tests.proxy.test_requests import FINE_BEFORE, read

FIRST = b"GET /hello?first HTTP/1.1\r\nHost: a\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /hello?last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


async def rest_of(client: Client) -> bytes:
    """Return all that the server sends until it closes."""
    received = b""
    with anyio.fail_after(PATIENCE_S):
        try:
            while data := await client.reader.read(65536):
                received += data
        except ConnectionResetError:
            pass
    return received


def test_the_corpus_is_large() -> None:
    assert len(MALFORMED) >= 150


@pytest.mark.parametrize("case", [case for case in MALFORMED if case != "data after Connection: close"])
async def test_nothing_is_smuggled_behind_a_malformed_request(door: Door, client: Client, case: str) -> None:
    client.send(FIRST)
    assert (await client.answer()).body == b"hello"
    client.send(MALFORMED[case] + SMUGGLED)
    answers = await rest_of(client)
    last = b"HTTP/1.1 " + answers.rpartition(b"HTTP/1.1 ")[2]
    assert b"\r\nconnection: close\r\n" in last.lower()
    assert b"\r\nx-request-id: " in last.lower()
    assert 400 <= int(last.split()[1]) <= 505
    seen = [call.head.target for call in door.stage.calls]
    assert seen[0] == b"/hello?first"
    assert b"/smuggled" not in seen
    for call in door.stage.calls[1:]:  # begun before its body turned out to be malformed
        if case not in FINE_BEFORE:
            await call.until(lambda call=call: call.is_cancelled)  # type: ignore[misc]


@pytest.mark.parametrize("step", [1 << 20, 1, 5], ids=["whole", "byte by byte", "by five"])
@pytest.mark.parametrize("case", FINE)
async def test_what_is_odd_and_well_formed_is_seen_as_it_was_sent(
    door: Door, client: Client, case: str, step: int
) -> None:
    data = FINE[case].data
    for at in range(0, len(data), step):
        client.send(data[at : at + step])
        await asyncio.sleep(0)
    for method, target, body in FINE[case].seen:
        seen = (await client.answer()).json()
        assert (seen["method"], seen["target"], seen["body"]) == (method, target, body)
        assert "upgrade" not in dict(seen["headers"])
    client.send(LAST)
    assert (await client.answer()).body == b"hello"
    assert await client.is_closed()
    assert len(door.stage.calls) == len(FINE[case].seen) + 1


# --- the rewriter: what another parser reads is what we have read -------------------------------------------


def rewritten(data: bytes, step: int) -> tuple[bytes, RequestRewriter]:
    rewriter, out = RequestRewriter(ProxyOptions()), b""
    for at in range(0, len(data), step):
        out += rewriter.feed(data[at : at + step])
        if rewriter.is_over:
            break
    return out, rewriter


@pytest.mark.parametrize("step", [1 << 20, 1, 3])
@pytest.mark.parametrize("case", FINE)
def test_what_is_written_anew_reads_the_same(case: str, step: int) -> None:
    out, rewriter = rewritten(FINE[case].data + LAST, step)
    assert not rewriter.is_over
    again = read(out)
    assert again.refusal is None
    bodies = [(r.body or b"".join(r.pieces)).decode() for r in again.ready[:-1]]
    assert [(r.method, r.target.decode()) for r in again.ready[:-1]] == [s[:2] for s in FINE[case].seen]
    assert bodies == [s[2] for s in FINE[case].seen]


NAMES = st.text("abcXYZ-_!#$%&'*+.^`|~019", min_size=1, max_size=12).map(str.encode)
VALUES = st.binary(max_size=20).map(lambda b: bytes(c for c in b if c >= 32 and c != 127))


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Return a well-formed request and its body."""
    body = draw(st.binary(max_size=60))
    lines = [b"POST /echo HTTP/1.1", b"Host: a"]
    for name, value in draw(st.lists(st.tuples(NAMES, VALUES), max_size=5)):
        lines.append(b"x-" + name + b":" + draw(st.sampled_from([b"", b" ", b"\t "])) + value)
    if draw(st.booleans()):
        lines += [b"Content-Length: %d" % len(body), b"", body]
        return b"\r\n".join(lines), body
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=4)))
    parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if a < b]
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(p), draw(st.sampled_from([b"", b";a=b"])), p) for p in parts)
    lines += [b"Transfer-Encoding: chunked", b"", chunks + b"0\r\n\r\n"]
    return b"\r\n".join(lines), body


@given(st.lists(requests(), min_size=1, max_size=4), st.integers(1, 200))
def test_any_requests_in_any_pieces_are_read_and_written_alike(
    sent: list[tuple[bytes, bytes]], step: int
) -> None:
    out, rewriter = rewritten(b"".join(data for data, _ in sent), step)
    assert rewriter.refusal is None
    assert [r.body or b"".join(r.pieces) for r in read(out).ready] == [body for _, body in sent]


@given(st.lists(requests(), min_size=1, max_size=3), st.data())
def test_a_damaged_request_is_refused_or_another_one_but_never_more(
    sent: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    """One byte is changed: at most one request more comes of it than were sent, and what is passed on is strict."""
    stream = bytearray(b"".join(one for one, _ in sent))
    stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    out, rewriter = rewritten(bytes(stream), data.draw(st.integers(1, 100)))
    again = read(out)
    if not rewriter.is_cut and not rewriter.upgrade:
        assert again.refusal is None
        assert len(again.ready) <= rewriter.num_passed + 1


@settings(max_examples=25, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.binary(min_size=1, max_size=300), st.sampled_from(["native", "hypercorn"]), st.integers(1, 40))
def test_no_bytes_harm_a_connection_or_the_next(data: bytes, server: str, step: int) -> None:
    async def main() -> None:
        async with open_door(ProxyOptions(server=server)) as door:  # type: ignore[arg-type]
            bad = await door.connect()
            try:
                for at in range(0, len(data), step):
                    bad.send(data[at : at + step])
                    await asyncio.sleep(0)
                bad.writer.write_eof()
            except (OSError, RuntimeError):  # uvloop says it so of a transport that has just closed
                pass
            await rest_of(bad)
            good = await door.connect()
            assert (await good.get("/hello")).body == b"hello"
            await good.close()
            await bad.close()
            with anyio.fail_after(PATIENCE_S):
                while door.server.num_connections:
                    await asyncio.sleep(0)

    anyio.run(main, backend_options={"use_uvloop": True})


# --- floods ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["native", "hypercorn"])
async def test_slow_heads_are_given_up_while_others_are_served(server: str) -> None:
    options = ProxyOptions(server=server, read_timeout_s=0.3)  # type: ignore[arg-type]
    async with open_door(options) as door:
        slow = [await door.connect() for _ in range(50)]
        good = await door.connect()
        for client in slow:
            client.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n")
        with anyio.fail_after(PATIENCE_S):
            while door.server.num_connections > 1:
                for client in slow:
                    client.send(b"X: %d\r\n" % random.randrange(9))  # progress alone does not help
                assert (await good.get("/hello")).body == b"hello"
                await asyncio.sleep(0.02)
        for client in slow:
            await client.close()
        await good.close()


async def test_a_million_headers_are_refused_and_not_kept(door: Door, client: Client) -> None:
    client.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n")
    try:
        with anyio.fail_after(PATIENCE_S):
            for _ in range(1000):
                client.send(b"X: 1\r\n" * 1000)
                await client.writer.drain()
    except ConnectionError:
        pass  # closed, as it should be in the end
    other = await door.connect()
    assert (await other.get("/hello")).body == b"hello"
    assert door.statuses()[431] == 1
    await other.close()


async def test_three_megabytes_of_one_byte_chunks_arrive_while_others_are_served(
    door: Door, client: Client
) -> None:
    number = 500_000  # "1 CR LF x CR LF" each
    door.stage.apps[b"/count-body"] = lambda played: played.take()
    client.send(b"POST /count-body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    other = await door.connect()
    with anyio.fail_after(PATIENCE_S):
        for _ in range(50):
            client.send(b"1\r\nx\r\n" * (number // 50))
            await client.writer.drain()
            assert (await other.get("/hello")).body == b"hello"
        client.send(b"0\r\n\r\n")
        played = next(p for p in door.stage.calls if p.path == b"/count-body")
        await played.until(lambda: played.body_ended)
    assert sum(map(len, played.pieces)) == number
    played.result(200, b"", b"done")
    assert (await client.answer()).body == b"done"
    await other.close()
