"""Every kind of gRPC call through a real instance, with grpcio as the client."""

from __future__ import annotations

import ast
from typing import Any

import grpc
import pytest

from tests.instances import DEADLINE_S, Instance

WAIT = {"timeout": DEADLINE_S}


async def failed(call: Any) -> grpc.aio.AioRpcError:
    """Return the error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_every_kind_of_call_gets_the_answer_of_its_method(
    door: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    await deploy(door)
    echo, behave = client(door).echo, client(door).behave
    assert (await echo.Say(pb.Said(text="hé"), **WAIT)).text == "hé"
    assert (await echo.Say(pb.Said(), **WAIT)) == pb.Said()
    repeated = [said.count async for said in echo.Repeat(pb.Said(count=3), **WAIT)]
    assert repeated == [0, 1, 2]
    assert [said async for said in echo.Repeat(pb.Said(count=0), **WAIT)] == []
    gathered = await echo.Gather(iter([pb.Said(text="a"), pb.Said(text="b"), pb.Said(text="c")]), **WAIT)
    assert (gathered.text, gathered.count) == ("a,b,c", 3)
    assert (await echo.Gather(iter([]), **WAIT)).count == 0
    assert (await behave.SaySync(pb.Said(text="x"), **WAIT)).text == "x"
    assert [said.count async for said in behave.RepeatSync(pb.Said(count=200), **WAIT)] == list(range(200))


async def test_a_conversation_goes_both_ways_at_the_same_time(
    door: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    await deploy(door)
    talk = client(door).echo.Converse(**WAIT)
    for text in ("one", "two"):
        await talk.write(pb.Said(text=text))
        assert (await talk.read()).text == text.upper()
    await talk.write(pb.Said(text="enough"))
    assert (await talk.read()).text == "ENOUGH"
    assert await talk.read() is grpc.aio.EOF  # although the client has not ended its side
    assert await talk.code() == grpc.StatusCode.OK


async def test_large_messages_and_long_streams_arrive_whole(
    door: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    await deploy(door)
    echo = client(door).echo
    large = bytes(range(256)) * 4 * 1024 * 16  # 16 MiB
    assert (await echo.Say(pb.Said(data=large), **WAIT)).data == large
    piece = b"x" * 100_000
    gathered = await echo.Gather((pb.Said(data=piece) for _ in range(100)), **WAIT)
    assert (gathered.count, gathered.data) == (100, b"10000000")
    count = size = 0
    async for said in echo.Repeat(pb.Said(count=100, data=piece), **WAIT):
        count, size = count + 1, size + len(said.data)
    assert (count, size) == (100, 10_000_000)


async def test_a_handler_sees_metadata_and_its_own_comes_back(
    door: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    await deploy(door)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    call = client(door).behave.Context(
        pb.Said(text="bye"),
        metadata=(
            ("request_id", "my-id"), ("multiplexed_model_id", "m1"), ("session_id", "s1"), ("traceparent", trace),
            ("tracestate", "a=b"), ("mine", "1"), ("mine-bin", b"\x01\x02\x03\xfe"),
        ),
        **WAIT,
    )  # fmt: skip
    told = ast.literal_eval((await call).text)
    assert told == {
        "application": "default", "peer": "ipv4", "request_id": "my-id", "traceparent": trace, "tracestate": "a=b",
        "model": "m1", "session": "s1", "mine": "1", "raw": b"\x01\x02\x03\xfe",
    }  # fmt: skip
    trailing = await call.trailing_metadata()
    assert dict(trailing) == {"request_id": "my-id", "said": "bye", "raw-bin": b"\x00\xff"}


async def test_a_request_without_an_id_gets_one_whatever_comes_of_it(
    door: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    behave = client(door).behave
    ids = {dict((await failed(behave.SaySync(pb.Said(), **WAIT))).trailing_metadata())["request_id"]}
    await deploy(door)
    ids.add(dict((await failed(behave.Fail(pb.Said(), **WAIT))).trailing_metadata())["request_id"])
    call = behave.SaySync(pb.Said(), **WAIT)
    await call
    ids.add(dict(await call.trailing_metadata())["request_id"])
    assert len(ids) == 3 and all(ids)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_messages_are_compressed_both_ways_when_asked(
    door: Instance, deploy: Any, client: Any, pb: Any, compression: grpc.Compression
) -> None:
    await deploy(door)
    said = pb.Said(text="t", count=int(compression), data=b"z" * 10_000)
    call = client(door).behave.Context(said, compression=compression, **WAIT)
    assert (await call).data == said.data


@pytest.mark.parametrize(
    ("said", "code", "details"),
    [
        ({"text": ""}, "INTERNAL", "broken by itself"),
        ({"text": "code", "count": 9}, "FAILED_PRECONDITION", "as set"),
        ({"text": "code without details", "count": 6}, "ALREADY_EXISTS", "broken by itself"),
        ({"text": "no exception", "count": 5}, "NOT_FOUND", ""),
        ({"text": "back pressure"}, "RESOURCE_EXHAUSTED", "queue"),
        ({"text": "long"}, "INTERNAL", "... [truncated]"),
    ],
)
async def test_what_a_handler_sets_or_raises_becomes_the_status(
    door: Instance, deploy: Any, client: Any, pb: Any, said: dict[str, Any], code: str, details: str
) -> None:
    await deploy(door)
    error = await failed(client(door).behave.Fail(pb.Said(**said), **WAIT))
    assert error.code().name == code
    assert details in error.details() and len(error.details()) <= 4096


async def test_what_cannot_be_answered_says_why(door: Instance, deploy: Any, client: Any, pb: Any) -> None:
    await deploy(door)
    here = client(door)
    error = await failed(here.behave.NotAMessage(pb.Said(), **WAIT))
    assert (error.code().name, "protobuf message" in error.details()) == ("INTERNAL", True)
    error = await failed(here.behave.Missing(pb.Said(), **WAIT))
    assert (error.code().name, "Tried to call a method 'Missing'" in error.details()) == ("INTERNAL", True)
    error = await failed(here.channel.unary_unary("/no.Such/Method")(b"", **WAIT))
    assert error.code().name == "UNIMPLEMENTED"
    error = await failed(here.channel.unary_unary("/serve_lite.echo.Echo/Say")(b"\xff\xff", **WAIT))
    assert (error.code().name, "no message that" in error.details()) == ("INTERNAL", True)


async def test_applications_are_told_apart_by_metadata_once_there_are_two(
    door: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    behave = client(door).behave

    async def answering(*application: str) -> str:
        metadata = [("application", name) for name in application]
        told = await behave.Context(pb.Said(), metadata=metadata, **WAIT)
        return str(ast.literal_eval(told.text)["application"])

    assert (await failed(answering())).code().name == "UNAVAILABLE"
    await deploy(door, name="one", route_prefix="/one")
    await deploy(door, name="hidden", route_prefix=None)
    assert [await answering(), await answering("one"), await answering("nobody")] == ["one"] * 3
    await deploy(door, name="two", route_prefix="/two")
    assert [await answering("two"), await answering("one")] == ["two", "one"]
    ping = "Ping /ray.serve.RayServeAPIService/ListApplications for available applications."
    error = await failed(answering())
    assert (error.code().name, error.details()) == ("NOT_FOUND", f"Application metadata not set. {ping}")
    error = await failed(answering("three"))
    assert (error.code().name, error.details()) == ("NOT_FOUND", f"Application 'three' not found. {ping}")
    await door.delete("one", "two")
    assert (await failed(answering("one"))).code().name == "NOT_FOUND"


async def test_requests_go_to_the_replica_that_has_their_model(
    door: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    await deploy(door, "two")
    behave = client(door).behave

    async def ask(model: str) -> str:
        return str((await behave.Model(pb.Said(), metadata=(("multiplexed_model_id", model),), **WAIT)).text)

    first = {model: await ask(model) for model in ("a", "b")}
    for _ in range(10):
        for model in ("a", "b"):
            assert await ask(model) == first[model]  # loaded once: each replica can hold one model only
