"""What the code that is running now belongs to: a replica, a request.

`_serve_request_context` and `ReplicaContext` keep Ray Serve's names and fields; libraries peek at them.
"""

from __future__ import annotations

import contextvars
import dataclasses
import os
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, Protocol

from serve_lite.cluster_only import DeploymentActorContext
from serve_lite.exceptions import RayServeException
from serve_lite.schema import ReplicaRank
from serve_lite.state.ids import DeploymentId, suffix_of
from serve_lite.state.resources import NO_ALLOTMENT, Allotment

#: For users; the rest is for the other rooms.
__all__ = [
    "DeploymentActorContext",
    "ReplicaContext",
    "ReplicaID",
    "ReplicaRank",
    "RequestContext",
    "get_multiplexed_model_id",
    "get_replica_context",
]

_FULL_ID_PREFIX = "SERVE_REPLICA::"


class Cancellable(Protocol):
    """A call in progress."""

    def cancel(self) -> object: ...


class RequestContext:
    """The request that is being handled, one object per request.

    `children` are the handle calls made on its behalf that are not finished; cancelling the request
    cancels them. What must be given back when the request has ended is noted with `at_end`.
    """

    __slots__ = (
        "_at_end", "_internal_request_id", "app_name", "children", "deadline", "grpc_context", "is_cancelled",
        "is_http_request", "multiplexed_model_id", "request_id", "route", "session_id", "traceparent",
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
        self.is_cancelled = False  #: calls that start on its behalf from now on are cancelled at once
        self._at_end: list[Callable[[], None]] | tuple[()] | None = None  #: an empty tuple once it has ended

    def cancel_children(self) -> None:
        """Cancel every unfinished call made for this request, and those that will still be made."""
        self.is_cancelled = True
        for child in tuple(self.children):
            child.cancel()

    def at_end(self, give_back: Callable[[], None]) -> None:
        """Call `give_back` on the loop once the request has ended, whichever way; at once if it has already."""
        if self._at_end is None:
            self._at_end = [give_back]
        elif isinstance(self._at_end, list):
            self._at_end.append(give_back)
        else:  # what outlives its request, a background task for example, holds nothing for it
            give_back()

    def end(self) -> None:
        """The request has ended: its work is done and nothing of it runs any more."""
        callbacks, self._at_end = self._at_end, ()
        if callbacks:
            for give_back in callbacks:
                give_back()


class SharedContext(RequestContext):
    """Of work that several requests wait for: a batch, the load of a model. Who began it must `end` it.

    Args:
        waiters: returns the requests that cannot go on before this work has ended.
    """

    __slots__ = ("waiters",)

    def __init__(self, multiplexed_model_id: str, waiters: Callable[[], Iterable[RequestContext]]) -> None:
        super().__init__(multiplexed_model_id=multiplexed_model_id)
        self.waiters = waiters


_NO_REQUEST = RequestContext()
_serve_request_context: ContextVar[RequestContext] = ContextVar("serve_request_context", default=_NO_REQUEST)


_on_wait: list[Callable[[], None]] = []


def on_wait(listener: Callable[[], None]) -> None:
    """Call `listener` each time a request begins to wait for work that it shares with others."""
    _on_wait.append(listener)


def note_wait() -> None:
    """A request has joined the `waiters` of a `SharedContext`, or will."""
    for listener in _on_wait:
        listener()


def current_request() -> RequestContext | None:
    """Return the request being handled, or None outside one."""
    context = _serve_request_context.get()
    return None if context is _NO_REQUEST else context


@dataclasses.dataclass(frozen=True)
class ReplicaID:
    """Which replica this is."""

    unique_id: str  #: short, unique within the instance; 2.60's `replica_tag`
    deployment_id: DeploymentId

    @property
    def full_tag(self) -> str:
        """`app#Deployment#id`: 2.7's `replica_tag`, and what logs and commands show."""
        return f"{self.deployment_id.app_name}#{self.deployment_id.name}#{self.unique_id}"

    def to_full_id_str(self) -> str:
        """Return `SERVE_REPLICA::app#Deployment#id`."""
        return _FULL_ID_PREFIX + self.full_tag

    @staticmethod
    def is_full_id_str(text: str) -> bool:
        """Return whether `text` has the form that `to_full_id_str` gives."""
        return text.startswith(_FULL_ID_PREFIX) and text.count("#") == 2

    @classmethod
    def from_full_id_str(cls, text: str) -> ReplicaID:
        """Return the id that `to_full_id_str` gave, or 2.7's `replica_tag`.

        Raises:
            ValueError: it has neither form.
        """
        parts = text.removeprefix(_FULL_ID_PREFIX).split("#")
        if len(parts) != 3 or not all(parts[1:]):
            raise ValueError(
                f"{text!r} is no full id of a replica; it must look like 'SERVE_REPLICA::app#Deployment#id'."
            )
        app, name, unique = parts
        return cls(unique, DeploymentId(name=name, app_name=app))

    def __str__(self) -> str:
        d = self.deployment_id
        return f"Replica(id='{self.unique_id}', deployment='{d.name}', app='{d.app_name}')"


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

    _ongoing_limit = 0  # no field: see `note_ongoing_limit`
    _allotment = NO_ALLOTMENT  # no field either: Ray Serve has none for it

    @property
    def app_name(self) -> str:
        """Name of the application."""
        return self.replica_id.deployment_id.app_name

    @property
    def deployment(self) -> str:
        """Name of the deployment."""
        return self.replica_id.deployment_id.name

    @property
    def replica_tag(self) -> str:
        """The short unique id, as in 2.60; 2.7's longer form is `replica_id.full_tag`."""
        return self.replica_id.unique_id

    @property
    def required_resources(self) -> dict[str, float]:
        """What was set aside for this replica, by Ray's names."""
        return self._allotment.shown()

    @property
    def gpu_ids(self) -> tuple[str, ...]:
        """The GPUs of this replica, as in CUDA_VISIBLE_DEVICES; one with a share of a GPU has one."""
        return self._allotment.gpu_ids

    @property
    def cpu_ids(self) -> tuple[int, ...]:
        """The CPUs that this replica is bound to by `cpu_affinity`; () if to none."""
        return self._allotment.cpu_ids


_of_process: ReplicaContext | None = None
#: of a replica that shares its process with others, in local testing mode
_of_task: ContextVar[ReplicaContext | None] = ContextVar("serve_replica_context", default=None)


def set_replica_context(context: ReplicaContext | None) -> None:
    """Say which replica this process is."""
    global _of_process
    _of_process = context


def set_local_replica_context(context: ReplicaContext) -> None:
    """Say which replica the code belongs to that runs in this context and those copied from it."""
    _of_task.set(context)


def detached_context() -> contextvars.Context:
    """Return a context for work that belongs to this replica but to no request."""
    context = contextvars.Context()
    context.run(_of_task.set, _of_task.get())
    return context


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
    context = _of_task.get() or _of_process
    if context is None:
        raise RayServeException(
            "`get_replica_context()` may only be called inside a replica of a deployment."
        )
    return context


def note_allotment(replica: ReplicaContext, allotment: Allotment) -> None:
    """Remember what this replica was given of the machine."""
    replica._allotment = allotment


def note_ongoing_limit(replica: ReplicaContext, limit: int) -> None:
    """Remember how many requests this replica takes at once."""
    replica._ongoing_limit = limit


def ongoing_limit() -> int:
    """Return how many requests the replica this runs in takes at once; 0 outside a replica or if unknown."""
    context = _of_task.get() or _of_process
    return context._ongoing_limit if context is not None else 0


def in_replica() -> bool:
    """Whether the code that asks runs in a replica."""
    return (_of_task.get() or _of_process) is not None


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
