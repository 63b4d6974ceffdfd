"""The gRPC door, opened from the command line."""

from __future__ import annotations

import signal

import grpc

from tests.cli.commands import Cli
from tests.instances import DEADLINE_S

SERVICES = """
import grpc

def add_to_server(servicer, server):
    handlers = {"Say": grpc.unary_unary_rpc_method_handler(servicer.Say)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Shop", handlers),))
"""

CONFIG = """
http_options:
  port: 0
grpc_options:
  port: 0
  grpc_servicer_functions: ["services:add_to_server"]
applications:
  - name: one
    import_path: shop:app
"""


async def health_of(address: str) -> bytes:
    """Return the answer of the health check for the service of `SERVICES`."""
    async with grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        return bytes(await check(b"\x0a\x09shop.Shop", timeout=DEADLINE_S))


async def test_start_opens_the_door_for_the_servicers_it_is_given(cli: Cli) -> None:
    cli.write("services.py", SERVICES)
    flags = ("--grpc-port", "0", "--grpc-servicer-functions", "services:add_to_server")
    done = await cli("start", "--http-port", "0", *flags)
    assert done.code == 0, done
    address = next(line.split()[1] for line in done.out.splitlines() if line.split()[:1] == ["gRPC"])
    assert await health_of(address) == b"\x08\x02"  # NOT_SERVING: nothing is deployed


async def test_start_tells_what_is_wrong_with_a_servicer(cli: Cli) -> None:
    done = await cli(
        "start", "--http-port", "0", "--grpc-port", "0", "--grpc-servicer-functions", "services:add"
    )
    assert done.code == 1
    assert "There is no module 'services'" in done.err


async def test_run_opens_the_door_that_a_config_describes(cli: Cli) -> None:
    cli.write("services.py", SERVICES)
    async with await cli.begin("run", cli.write("serve.yaml", CONFIG)) as running:
        await running.ready_url("one")
        address = (await running.until(r"gRPC is served at (\S+)"))[1]
        assert await health_of(address) == b"\x08\x01"  # SERVING
        running.send(signal.SIGINT)
        assert await running.ended() == 0
