"""Large messages and their limits, compressed or not."""

from __future__ import annotations

import gzip
from typing import Any

import grpc
import httpx
import psutil
import pytest

from tests.grpc.raw import framed
from tests.grpc.test_calls import WAIT, failed
from tests.instances import DEADLINE_S, Instance, Instances

MiB = 1024 * 1024
LIMIT = 100_000


@pytest.fixture
async def limited(instances: Instances, given: Any) -> Instance:
    return await instances.start(
        given(grpc_max_receive_message_bytes=LIMIT, grpc_max_send_message_bytes=LIMIT)
    )


async def test_a_message_beyond_the_limit_ends_its_request(
    limited: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    await deploy(limited)
    echo = client(limited).echo
    fits = pb.Said(data=bytes(LIMIT - 10))
    assert len((await echo.Gather(iter([fits, fits]), **WAIT)).data) == len(str(2 * (LIMIT - 10)))
    error = await failed(echo.Say(pb.Said(data=bytes(LIMIT)), **WAIT))
    assert (error.code().name, str(LIMIT) in error.details()) == ("RESOURCE_EXHAUSTED", True)
    error = await failed(echo.Gather(iter([fits, pb.Said(data=bytes(LIMIT))]), **WAIT))
    assert error.code().name == "RESOURCE_EXHAUSTED"
    for encoding in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        error = await failed(echo.Say(pb.Said(data=bytes(LIMIT)), compression=encoding, **WAIT))
        assert (error.code().name, "decompressed" in error.details()) == ("RESOURCE_EXHAUSTED", True)
    assert (await echo.Say(fits, **WAIT)).data == fits.data


async def test_an_answer_beyond_the_limit_is_not_sent(
    limited: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    await deploy(limited)
    behave = client(limited).behave
    error = await failed(behave.Grow(pb.Said(count=LIMIT + 1), **WAIT))
    assert (error.code().name, str(LIMIT) in error.details()) == ("RESOURCE_EXHAUSTED", True)
    stream, sizes = behave.GrowStream(pb.Said(count=LIMIT + 1), **WAIT), []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for said in stream:
            sizes.append(len(said.data))
    assert (caught.value.code().name, sizes) == ("RESOURCE_EXHAUSTED", [1])
    assert len((await behave.Grow(pb.Said(count=LIMIT - 10), **WAIT)).data) == LIMIT - 10


async def test_a_client_s_own_limit_is_the_client_s_error(
    door: Instance, deploy: Any, client: Any, pb: Any, generated: Any
) -> None:
    await deploy(door)
    stub = type(client(door).behave)
    address = f"{door.info.grpc_host}:{door.info.grpc_port}"
    async with grpc.aio.insecure_channel(
        address, [("grpc.max_receive_message_length", 1000), ("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        error = await failed(stub(channel).Grow(pb.Said(count=2000), **WAIT))
        assert error.code().name == "RESOURCE_EXHAUSTED"
        assert len((await stub(channel).Grow(pb.Said(count=900), **WAIT)).data) == 900


async def test_64_mb_go_both_ways(door: Instance, deploy: Any, client: Any, pb: Any) -> None:
    await deploy(door)
    data = bytes(range(256)) * 4096 * 64
    assert (await client(door).echo.Say(pb.Said(data=data), **WAIT)).data == data


async def test_a_small_message_that_is_huge_once_decompressed_harms_nobody(
    door: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    """What it costs, it costs the replica that would have it; the daemon does not look inside."""
    await deploy(door)
    echo = client(door).echo
    await echo.Say(pb.Said(), **WAIT)
    daemon = psutil.Process(await door.daemon_pid())
    before = daemon.memory_info().rss
    bomb = gzip.compress(pb.Said(data=bytes(128 * MiB)).SerializeToString(), 1)
    url = f"http://{door.info.grpc_host}:{door.info.grpc_port}"
    async with httpx.AsyncClient(base_url=url, http1=False, http2=True, timeout=2 * DEADLINE_S) as http:
        answer = await http.post(
            "/serve_lite.echo.Behave/Pid",
            headers={"content-type": "application/grpc", "te": "trailers", "grpc-encoding": "gzip"},
            content=framed(bomb, 1),
        )
    assert answer.content  # Pid answers whatever it gets
    assert daemon.memory_info().rss - before < 32 * MiB


@pytest.mark.parametrize(
    ("asked", "packed"), [("ggg", "111"), ("gng", "101"), ("ngg", "000"), ("gdn", "100")]
)
async def test_an_answer_has_the_compression_of_its_first_message_or_none(
    door: Instance, deploy: Any, pb: Any, asked: str, packed: str
) -> None:
    await deploy(door)
    url = f"http://{door.info.grpc_host}:{door.info.grpc_port}"
    headers = {
        "content-type": "application/grpc",
        "te": "trailers",
        "grpc-accept-encoding": "gzip,deflate,identity",
    }
    async with httpx.AsyncClient(base_url=url, http1=False, http2=True, timeout=DEADLINE_S) as http:
        message = pb.Said(text=asked, data=b"z" * 1000).SerializeToString()
        answer = await http.post("/serve_lite.echo.Behave/Packed", headers=headers, content=framed(message))
    assert answer.headers.get("grpc-encoding") == ("gzip" if asked[0] == "g" else None)
    flags, at = "", 0
    while at < len(answer.content):
        flags += str(answer.content[at])
        size = int.from_bytes(answer.content[at + 1 : at + 5], "big")
        data = answer.content[at + 5 : at + 5 + size]
        assert pb.Said.FromString(gzip.decompress(data) if flags[-1] == "1" else data).data == b"z" * 1000
        at += 5 + size
    assert flags == packed
