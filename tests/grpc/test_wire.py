"""What clients may send that grpcio would not, and what grpcio does not show of answers: plain HTTP/2 requests."""

from __future__ import annotations

import base64
import gzip
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serve_lite.wire.grpc_status import NAMES
from tests.instances import DEADLINE_S, Instance

REFLECT = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
CONTEXT = "/serve_lite.echo.Behave/Context"
GRPC = {"content-type": "application/grpc", "te": "trailers"}


def framed(data: bytes, flag: int = 0) -> bytes:
    return bytes((flag,)) + len(data).to_bytes(4, "big") + data


@pytest.fixture
async def http(door: Instance) -> AsyncIterator[httpx.AsyncClient]:
    """A client of HTTP/2 without TLS."""
    url = f"http://{door.info.grpc_host}:{door.info.grpc_port}"
    async with httpx.AsyncClient(base_url=url, http1=False, http2=True, timeout=DEADLINE_S) as client:
        yield client


@pytest.mark.parametrize(
    ("compression", "encoding", "unpack"), [(1, "deflate", zlib.decompress), (2, "gzip", gzip.decompress)]
)
async def test_answers_are_compressed_for_clients_that_can_read_it(
    http: httpx.AsyncClient,
    door: Instance,
    deploy: Any,
    pb: Any,
    compression: int,
    encoding: str,
    unpack: Any,
) -> None:
    await deploy(door)
    body = framed(pb.Said(count=compression, data=b"z" * 10_000).SerializeToString())
    plain = await http.post(CONTEXT, headers=GRPC, content=body)
    assert "grpc-encoding" not in plain.headers
    assert plain.content[0] == 0 and b"z" * 10_000 in plain.content
    accepting = GRPC | {"grpc-accept-encoding": f"identity, {encoding}"}
    packed = await http.post(CONTEXT, headers=accepting, content=body)
    assert packed.headers["grpc-encoding"] == encoding
    assert packed.content[0] == 1 and len(packed.content) < 1000
    assert b"z" * 10_000 in unpack(packed.content[5:])


MALFORMED: list[tuple[dict[str, str | bytes], bytes, str]] = [
    ({"grpc-timeout": "soon"}, framed(b""), "INVALID_ARGUMENT"),
    ({"grpc-timeout": "123456789S"}, framed(b""), "INVALID_ARGUMENT"),
    ({"a-bin": "%"}, framed(b""), "INVALID_ARGUMENT"),
    ({"a": "caf\xe9".encode("latin-1")}, framed(b""), "INVALID_ARGUMENT"),
    ({}, b"", "UNIMPLEMENTED"),  # no message
    ({}, framed(b"") * 2, "UNIMPLEMENTED"),  # two messages
    ({}, framed(b"abc")[:-1], "INTERNAL"),  # cut
    ({}, b"\0\0", "INTERNAL"),  # cut in its head
    ({}, framed(b"abc", 2), "INTERNAL"),  # neither compressed nor not
    ({}, b"\0\xff\xff\xff\xff", "RESOURCE_EXHAUSTED"),  # too large
    ({"grpc-encoding": "gzip"}, framed(b"no gzip", 1), "INTERNAL"),
    ({"grpc-encoding": "gzip"}, framed(gzip.compress(b"x" * 100, mtime=0)[:-9], 1), "INTERNAL"),
    ({"grpc-encoding": "gzip"}, framed(gzip.compress(b"") + b"x", 1), "INTERNAL"),
    ({"grpc-encoding": "deflate"}, framed(gzip.compress(b"x" * 100), 1), "INTERNAL"),
    ({"grpc-encoding": "identity"}, framed(b"abc", 1), "INTERNAL"),
    ({}, framed(b"abc", 1), "INTERNAL"),
    ({"grpc-encoding": "br"}, framed(b"abc", 1), "UNIMPLEMENTED"),
    ({}, framed(b"\xff\xff"), "INTERNAL"),  # no protobuf
    ({"pad": "x" * 60_000, "pad2": "x" * 5_500}, framed(b""), "RESOURCE_EXHAUSTED"),  # metadata
]


async def test_what_is_malformed_is_refused_and_harms_nobody(
    http: httpx.AsyncClient, door: Instance, deploy: Any
) -> None:
    await deploy(door)
    for more, body, status in MALFORMED:
        answer = await http.post(CONTEXT, headers={**GRPC, **more}, content=body)
        told = NAMES[int(answer.headers["grpc-status"])]
        assert (more, body, told, answer.content) == (more, body, status, b"")
        assert answer.headers["grpc-message"] and answer.headers["request_id"]
        assert answer.headers["grpc-accept-encoding"] == "identity,deflate,gzip"
        good = await http.post(CONTEXT, headers=GRPC, content=framed(b""))
        assert good.content[0] == 0 and len(good.content) > 5


async def test_builtins_refuse_what_is_malformed_too(http: httpx.AsyncClient) -> None:
    for path in ("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", REFLECT):
        for more, body, status in (
            ({}, framed(b"\xff\xff"), "INTERNAL"),
            ({"grpc-encoding": "gzip"}, framed(b"no gzip", 1), "INTERNAL"),
            ({}, framed(b"\x0a\xff\xff\xff\x0f"), "INTERNAL"),
            ({}, b"\0\0\x10\0\0", "RESOURCE_EXHAUSTED"),  # a megabyte to come
        ):
            answer = await http.post(path, headers=GRPC | more, content=body)
            assert (path, body, NAMES[int(answer.headers["grpc-status"])]) == (path, body, status)
    packed = framed(gzip.compress(b""), 1)
    health = await http.post(
        "/grpc.health.v1.Health/Check", headers=GRPC | {"grpc-encoding": "gzip"}, content=packed
    )
    assert health.content == framed(b"\x08\x02")  # NOT_SERVING


async def test_what_is_no_grpc_is_told_so_by_http(http: httpx.AsyncClient) -> None:
    assert (await http.get(CONTEXT, headers=GRPC)).status_code == 405
    assert (await http.post(CONTEXT, headers={"content-type": "application/json"})).status_code == 415


async def test_an_id_that_could_do_harm_is_replaced(
    http: httpx.AsyncClient, door: Instance, deploy: Any, pb: Any
) -> None:
    await deploy(door)
    answer = await http.post(
        "/serve_lite.echo.Behave/Fail", headers=GRPC | {"request_id": "a b"}, content=framed(b"")
    )
    assert answer.headers["grpc-status"] == "13"
    assert answer.headers["request_id"] not in ("", "a b")


async def test_binary_metadata_is_read_with_and_without_padding(
    http: httpx.AsyncClient, door: Instance, deploy: Any, pb: Any
) -> None:
    await deploy(door)
    for value in (b"1", b"12", b"123"):
        padded = base64.b64encode(value).decode()
        for written in (padded, padded.rstrip("=")):
            answer = await http.post(CONTEXT, headers=GRPC | {"mine-bin": written}, content=framed(b""))
            assert repr(value).encode() in answer.content
