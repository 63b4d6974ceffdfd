"""What goes before and after the messages: initial and trailing metadata, and the details of an error."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from tests.grpc.test_calls import WAIT, failed
from tests.instances import Instance


@pytest.mark.parametrize("count", [0, 3])
async def test_initial_metadata_comes_before_the_first_message(
    door: Instance, deploy: Any, client: Any, pb: Any, count: int
) -> None:
    await deploy(door)
    stream = client(door).behave.Initial(pb.Said(text="hello", count=count), **WAIT)
    initial = dict(await stream.initial_metadata())
    assert (initial["first"], initial["raw-bin"]) == ("hello", b"\x00\xff")
    assert [said.count async for said in stream] == list(range(count))
    assert "first" not in dict(await stream.trailing_metadata())


async def test_initial_metadata_comes_also_with_an_error(
    door: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    await deploy(door)
    stream = client(door).behave.Initial(pb.Said(text="fail"), **WAIT)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    assert (caught.value.code().name, caught.value.details()) == ("INTERNAL", "after all")
    assert dict(caught.value.initial_metadata())["first"] == "fail"


async def test_the_details_of_an_error_arrive(door: Instance, deploy: Any, client: Any, pb: Any) -> None:
    await deploy(door)
    error = await failed(client(door).behave.Details(pb.Said(text="the exception's own"), **WAIT))
    told = rpc_status.from_call(_Call(error))
    assert (told.code, told.message) == (9, "not ready")
    said = pb.Said()
    assert told.details[0].Unpack(said) and said.text == "why"


class _Call:
    """An error of grpc.aio as grpc_status reads errors of the other kind."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self._error = error

    def code(self) -> grpc.StatusCode:
        return self._error.code()

    def details(self) -> str:
        return self._error.details() or ""

    def trailing_metadata(self) -> list[Any]:
        return list(self._error.trailing_metadata())


async def test_repeated_and_many_metadata_arrive_in_order(
    door: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    await deploy(door)
    many = [(f"n{number}", "v" * 50) for number in range(80)]
    call = client(door).behave.Context(
        pb.Said(), metadata=[("mine", "1"), *many, ("mine", "2"), ("a-bin", b""), ("a-bin", b"x")], **WAIT
    )
    assert (await call).text


async def test_details_may_hold_any_text(door: Instance, deploy: Any, client: Any, pb: Any) -> None:
    await deploy(door)
    error = await failed(client(door).behave.FailWith(pb.Said(text='100 % ü\n\t"x" 漢'), **WAIT))
    assert error.details() == '100 % ü\n\t"x" 漢'
