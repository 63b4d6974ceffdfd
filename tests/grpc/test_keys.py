"""API keys and rates at the gRPC door, with grpcio as the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from serve_lite.proxy.key_file import add_key
from serve_lite.proxy.keys import new_key
from serve_lite.wire.messages import Empty, ReloadKeysReply
from tests.grpc.test_calls import WAIT, failed
from tests.instances import Instance, Instances


async def test_a_call_needs_a_key_where_applications_do(
    instances: Instances, given: Callable[..., Any], deploy: Any, client: Any, pb: Any
) -> None:
    options = given(require_api_key=True)
    door: Instance = await instances.start(options)
    keys = {}
    for name, more in {
        "alice": {},
        "other": {"apps": ("other",)},
        "below": {"routes": ("/serve_lite.echo.Behave",)},
        "slow": {"rate": "1/h burst 1"},
    }.items():
        key, keys[name] = new_key(name, **more)  # type: ignore[arg-type]
        add_key(f"{door.home}/api-keys", key)
    await deploy(door)
    echo = client(door).echo

    async def code(*metadata: tuple[str, str]) -> grpc.StatusCode:
        call = echo.Say(pb.Said(text="hi"), metadata=metadata, **WAIT)
        code: grpc.StatusCode = await call.code()
        return code

    assert (await door.ask("reload_keys", Empty(), ReloadKeysReply)).keys == 4
    assert await code() == grpc.StatusCode.UNAUTHENTICATED
    assert await code(("authorization", "Bearer nonsense")) == grpc.StatusCode.UNAUTHENTICATED
    assert await code(("authorization", f"Bearer {keys['alice']}")) == grpc.StatusCode.OK
    assert await code(("x-api-key", keys["other"])) == grpc.StatusCode.PERMISSION_DENIED
    assert await code(("x-api-key", keys["below"])) == grpc.StatusCode.PERMISSION_DENIED
    assert await code(("x-api-key", keys["slow"])) == grpc.StatusCode.OK
    error = await failed(echo.Say(pb.Said(), metadata=(("x-api-key", keys["slow"]),), **WAIT))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "'slow'" in str(error.details())
    assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) > 60_000
    sent = (("authorization", f"Bearer {keys['alice']}"), ("x-serve-api-key-name", "admin"), ("mine", "1"))
    seen = (await client(door).behave.Context(pb.Said(text="names"), metadata=sent, **WAIT)).text
    assert "('x-serve-api-key-name', 'alice')" in seen and "('mine', '1')" in seen
    assert "authorization" not in seen and "admin" not in seen and keys["alice"] not in seen
    streamed = echo.Repeat(pb.Said(count=2), **WAIT)
    assert await streamed.code() == grpc.StatusCode.UNAUTHENTICATED
