"""What an adviser child does: run user code that decides something for the daemon, which must not run it.

That are request routers, asked for each request that the daemon's proxy gets for a deployment that has one, and
autoscaling policies (`deciding.py`).
One adviser serves one application's code environment; it ends with the daemon. The daemon's side is
`controller/advisers.py`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import anyio
import uvloop

from serve_lite.replica.deciding import Policies
from serve_lite.routing.advised import RouterHost
from serve_lite.state.ids import DeploymentId
from serve_lite.wire.control import ControlMethods
from serve_lite.wire.listener import listen
from serve_lite.wire.messages import (
    DecideAppRequest,
    DecideRequest,
    RankReply,
    RankRequest,
    RouterChoice,
    RouterNote,
)

log = logging.getLogger("serve_lite.adviser")

_FIRST_CONTACT_S = 60.0  #: how long a new adviser waits for the daemon that started it


def main(listen_socket: socket.socket) -> None:
    """Advise on this listening socket until the daemon is gone. Returns when the process should exit."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(asctime)s %(name)s -- %(message)s")
    uvloop.run(_serve(listen_socket))


async def _serve(listen_socket: socket.socket) -> None:
    left = asyncio.Event()
    async with anyio.create_task_group() as group:
        methods = ControlMethods(group)
        methods.method("rank", RankRequest, _Routers().rank)
        policies = Policies()
        methods.method("decide", DecideRequest, policies.decide)
        methods.method("decide_app", DecideAppRequest, policies.decide_app)
        listener = await listen(listen_socket, methods.handle_call)
        listener.on_lost = lambda _: left.set()
        with anyio.move_on_after(_FIRST_CONTACT_S) as patience:
            while not listener.connections and not left.is_set():
                await asyncio.sleep(0.01)
        if not patience.cancelled_caught:
            await left.wait()  # ends with the daemon's connection
        await listener.aclose()
        group.cancel_scope.cancel()


class _Routers:
    """The routers of an application's deployments, each made when it is first asked."""

    def __init__(self) -> None:
        self._hosts: dict[tuple[str, str], tuple[RouterChoice, RouterHost]] = {}

    async def rank(self, request: RankRequest) -> RankReply:
        host = self._host(request)
        for note in request.notes:
            self._note(host, note)
        nothing: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        return RankReply(await host.rank(request.facts, nothing, request.candidates))

    def _host(self, request: RankRequest) -> RouterHost:
        key = (request.app, request.deployment)
        known = self._hosts.get(key)
        if known is None or known[0] != request.choice:
            target = DeploymentId(name=request.deployment, app_name=request.app)
            known = self._hosts[key] = (request.choice, RouterHost(target, request.choice))
        return known[1]

    def _note(self, host: RouterHost, note: RouterNote) -> None:
        try:
            if note.has_ended:
                host.ended(note.facts, note.replica_id)
            else:
                host.placed(note.facts, ((), {}), note.replica_id)
        except Exception:  # boundary: the user's hook; the ranking does not depend on it
            log.exception("a hook of a request router failed")
