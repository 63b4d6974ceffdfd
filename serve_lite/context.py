"""What the code that is running now belongs to: a replica, a request.

`_serve_request_context` and `ReplicaContext` keep Ray Serve's names and fields; libraries peek at them.
"""

from __future__ import annotations

import dataclasses
import os
from contextvars import ContextVar
from typing import Any, Protocol

from serve_lite.exceptions import RayServeException
from serve_lite.state.ids import DeploymentId, suffix_of


class Cancellable(Protocol):
    """A call in progress."""

    def cancel(self) -> object: ...


class RequestContext:
    """The request that is being handled, one object per request.

    `children` are the handle calls made on its behalf that are not finished; cancelling the request
    cancels them.
    """

    __slots__ = (
        "_internal_request_id", "app_name", "children", "deadline", "grpc_context", "is_http_request",
        "multiplexed_model_id", "request_id", "route", "session_id", "traceparent",
    )  # fmt: skip

    def __init__(
        self,
        request_id: str = "",
        *,
        route: str = "",
        app_name: str = "",
        multiplexed_model_id: str = "",
        session_id: str = "",
        deadline: float = 0.0,
        traceparent: str = "",
        is_http_request: bool = False,
    ) -> None:
        self.request_id = request_id
        self._internal_request_id = request_id
        self.route = route
        self.app_name = app_name
        self.multiplexed_model_id = multiplexed_model_id
        self.session_id = session_id
        self.deadline = deadline  #: seconds on the monotonic clock, 0 for none
        self.traceparent = traceparent
        self.is_http_request = is_http_request
        self.grpc_context: Any = None
        self.children: set[Cancellable] = set()

    def cancel_children(self) -> None:
        """Cancel every unfinished call made for this request."""
        for child in tuple(self.children):
            child.cancel()


_NO_REQUEST = RequestContext()
_serve_request_context: ContextVar[RequestContext] = ContextVar("serve_request_context", default=_NO_REQUEST)


def current_request() -> RequestContext | None:
    """Return the request being handled, or None outside one."""
    context = _serve_request_context.get()
    return None if context is _NO_REQUEST else context


@dataclasses.dataclass(frozen=True)
class ReplicaID:
    """Which replica this is."""

    unique_id: str
    deployment_id: DeploymentId

    def to_full_id_str(self) -> str:
        return f"SERVE_REPLICA::{self.deployment_id.app_name}#{self.deployment_id.name}#{self.unique_id}"

    def __str__(self) -> str:
        d = self.deployment_id
        return f"Replica(id='{self.unique_id}', deployment='{d.name}', app='{d.app_name}')"


@dataclasses.dataclass(frozen=True)
class ReplicaRank:
    """The place of this replica among those of its deployment; on one machine all three agree."""

    rank: int
    node_rank: int = 0
    local_rank: int = 0


@dataclasses.dataclass
class ReplicaContext:
    """What a replica knows of itself.

    `servable_object` is the user's instance; None while its constructor runs.
    """

    replica_id: ReplicaID
    servable_object: Any
    rank: ReplicaRank
    world_size: int
    code_version: str = ""
    gang_context: None = None

    @property
    def app_name(self) -> str:
        return self.replica_id.deployment_id.app_name

    @property
    def deployment(self) -> str:
        return self.replica_id.deployment_id.name

    @property
    def replica_tag(self) -> str:
        return self.replica_id.unique_id


_replica_context: ReplicaContext | None = None


def set_replica_context(context: ReplicaContext | None) -> None:
    """Say which replica this process is."""
    global _replica_context
    _replica_context = context


def make_replica_context(full_id: str, app: str, deployment: str, **fields: Any) -> ReplicaContext:
    """Return the context of the replica with this full id."""
    rank = fields.pop("rank", 0)
    return ReplicaContext(
        replica_id=ReplicaID(suffix_of(full_id), DeploymentId(name=deployment, app_name=app)),
        servable_object=None,
        rank=ReplicaRank(rank, 0, rank),
        **fields,
    )


def get_replica_context() -> ReplicaContext:
    """Return the deployment, application and id of the replica this runs in.

    Raises:
        RayServeException: called outside a replica.
    """
    if _replica_context is None:
        raise RayServeException(
            "`get_replica_context()` may only be called inside a replica of a deployment."
        )
    return _replica_context


def in_replica() -> bool:
    """Whether this process is a replica."""
    return _replica_context is not None


def get_multiplexed_model_id() -> str:
    """Return the model id that came with the current request, "" if none did or outside a request."""
    return _serve_request_context.get().multiplexed_model_id


_id_prefix = ""
_id_pid = 0
_id_count = 0


def new_request_id() -> str:
    """Return an id no other request on this machine has: random per process, then counted.

    A tenth of the cost of a uuid4, and forked processes draw their own prefix.
    """
    global _id_prefix, _id_pid, _id_count
    if _id_pid != os.getpid():
        _id_pid, _id_prefix, _id_count = os.getpid(), os.urandom(8).hex(), 0
    _id_count += 1
    return f"{_id_prefix}{_id_count:08x}"
