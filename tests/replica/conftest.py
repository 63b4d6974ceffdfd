"""Real replica processes, told what to do by the test in the daemon's place."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from serve_lite import shipping
from serve_lite.config import DeploymentConfig
from serve_lite.routing.router import Routers
from serve_lite.wire.connection import Connection, connect
from serve_lite.wire.messages import (
    DeploymentLoad,
    InitRequest,
    Membership,
    MemberState,
    ReplicaEndpoint,
    ReplicaReport,
)

_START = """
import socket, sys
from serve_lite.replica.process import main
main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
"""


class StaticMembership:
    """Membership that the test sets."""

    def __init__(self) -> None:
        self.current = Membership(app="app", deployment="D", state=MemberState.AVAILABLE)
        self._listeners: list[Callable[[Membership], None]] = []
        self.loads: list[DeploymentLoad] = []  #: as the router told it

    def tell_load(self, load: DeploymentLoad) -> None:
        self.loads.append(load)

    def watch(self, app: str, deployment: str, on_change: Callable[[Membership], None]) -> Callable[[], None]:
        self._listeners.append(on_change)
        on_change(self.current)
        return lambda: self._listeners.remove(on_change)

    def set(self, membership: Membership) -> None:
        self.current = membership
        for listener in tuple(self._listeners):
            listener(membership)


class ReplicaProcess:
    """One replica process and the control connection to it."""

    def __init__(
        self, process: subprocess.Popen[bytes], endpoint: ReplicaEndpoint, control: Connection
    ) -> None:
        self.process, self.endpoint, self.control = process, endpoint, control
        self.report: ReplicaReport | None = None

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)


class Stage:
    """Starts replicas and routes calls to them."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.membership = StaticMembership()
        self.routers = Routers(self.membership)
        self.replicas: list[ReplicaProcess] = []

    @property
    def router(self) -> Any:
        return self.routers.get("app", "D")

    async def start(
        self,
        target: Any,
        *args: Any,
        config: DeploymentConfig | None = None,
        orphan_grace_s: float = 60.0,
        **kwargs: Any,
    ) -> ReplicaProcess:
        """Start a replica of a class or function and route to it; raises what its `init` raises."""
        config = config or DeploymentConfig()
        suffix = f"rep{len(self.replicas):05d}"
        path = os.path.join(self.directory, f"r-{suffix}.sock")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
            sock.listen(128)
            process = subprocess.Popen(
                [sys.executable, "-c", _START, str(sock.fileno()), f"app#D#{suffix}"],
                pass_fds=[sock.fileno()],
            )
        endpoint = ReplicaEndpoint(
            replica_id=f"app#D#{suffix}", socket=path, max_ongoing=config.max_ongoing_requests
        )
        control = await asyncio.wait_for(connect(path), 20)
        replica = ReplicaProcess(process, endpoint, control)
        self.replicas.append(replica)
        request = InitRequest(
            replica_id=endpoint.replica_id,
            app_name="app",
            deployment="D",
            version="v1",
            code=shipping.dump_code(target),
            init=shipping.dump_init(args, kwargs),
            config=config,
            orphan_grace_s=orphan_grace_s,
        )
        replica.report = await control.control("init", request, ReplicaReport, timeout_s=20)
        self.route(*(r for r in self.replicas if r.process.poll() is None))
        return replica

    def route(self, *replicas: ReplicaProcess, **fields: Any) -> None:
        """Make these the members."""
        self.membership.set(
            Membership(
                app="app",
                deployment="D",
                state=fields.pop("state", MemberState.AVAILABLE),
                replicas=tuple(r.endpoint for r in replicas),
                **fields,
            )
        )


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    directory = tempfile.mkdtemp(prefix="sl-", dir="/tmp")
    stage = Stage(directory)
    try:
        yield stage
    finally:
        await stage.routers.aclose()
        for replica in stage.replicas:
            replica.control.close()
            with contextlib.suppress(ProcessLookupError):
                replica.process.kill()
            replica.process.wait(10)
        shutil.rmtree(directory)
