"""The handles of Ray Serve 2.7 and before, for code that is not yet moved to `DeploymentHandle`.

They differ in what `remote` returns: a reference to the result (`ObjectRef`), to be awaited or given to
`serve_lite.get`. Nothing in serve_lite hands them out; `handle.options(use_new_handle_api=False)` does when
asked, and the classes may be made by name. An annotation with one of them changes nothing.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any

from serve_lite.checks import warn_deprecated
from serve_lite.context import in_replica
from serve_lite.exceptions import RayServeException
from serve_lite.handle import DeploymentHandle, runtime_for
from serve_lite.responses import (
    CallResult,
    DeploymentResponse,
    DeploymentResponseGenerator,
    HandleCall,
    ObjectRef,
    StreamCall,
    UnaryCall,
    result_of,
)
from serve_lite.routing.runtime import Runtime
from serve_lite.state.ids import DeploymentId
from serve_lite.wire.messages import PythonHead

__all__ = [
    "ObjectRef",
    "ObjectRefGenerator",
    "PendingObjectRef",
    "RayServeDeploymentHandle",
    "RayServeHandle",
    "RayServeSyncHandle",
    "get",
]

_SWITCH = "RAY_SERVE_ENABLE_NEW_HANDLE_API"  #: "1" in the environment: no handle is of the older kind


class RayServeHandle(DeploymentHandle):
    """For asynchronous code: `ref = await handle.remote(x)`, then `await ref`."""

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Start a call; returns an awaitable of its `ObjectRef`, or of an `ObjectRefGenerator` with `stream=True`.

        Raises:
            RayServeException: Serve does not run here.
        """
        return PendingObjectRef(_start(self, args, kwargs))


class RayServeDeploymentHandle(RayServeHandle):
    """`RayServeHandle` by the name that annotations use."""


class RayServeSyncHandle(DeploymentHandle):
    """For synchronous code: `ref = handle.remote(x)`, then `serve_lite.get(ref)`."""

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Start a call and block until a replica has it; returns an `ObjectRef`, or an `ObjectRefGenerator`.

        Raises:
            RayServeException: Serve does not run here.
            RuntimeError: called on the loop of a replica, which it would block; use `RayServeHandle` there.
        """
        reference = _start(self, args, kwargs)
        call = reference._call
        if call.runtime.on_loop and not call.placed.done():
            reference.cancel()
            raise RuntimeError(
                "`RayServeSyncHandle.remote` blocks and was called on a replica's event loop. Use "
                "`RayServeHandle` there, or better `await handle.remote(...)` of a `DeploymentHandle`."
            )
        call.placed.result()  # ends when a replica has the call, or when it has failed
        return reference


def older_kind(kind: type[DeploymentHandle]) -> type[DeploymentHandle]:
    """Return the class that `use_new_handle_api=False` asks for here: what 2.7 would have handed out."""
    if os.environ.get(_SWITCH) == "1":
        return DeploymentHandle
    if kind is not DeploymentHandle:
        return kind
    return RayServeHandle if in_replica() else RayServeSyncHandle


def get(refs: Any, timeout: float | None = None) -> Any:
    """Block until there are results: what `ray.get` does for references that older handles returned.

    Args:
        refs: an `ObjectRef` (or a `DeploymentResponse`), or a list of them, which gives a list of values.
        timeout: seconds to wait for all of them; None waits without end, 0 only looks.

    Raises:
        TimeoutError: not every result is there; the requests go on.
        RuntimeError: called on the event loop that the results arrive on; use `await ref` there.
        TypeError: something else than a reference.
        what a call failed with.
    """
    if isinstance(refs, (list, tuple)):
        give_up_at = None if timeout is None else time.monotonic() + timeout
        for ref in refs:
            _check_reference(ref)
        return [result_of(ref._call, _left(give_up_at)) for ref in refs]
    _check_reference(refs)
    return result_of(refs._call, timeout)


class PendingObjectRef(CallResult):
    """A call on its way to a replica: await it for the reference to its result, as often as wanted.

    May also be passed itself as a top-level argument to another `remote()` call, which then gets the value.
    """

    __slots__ = ("_reference",)

    def __init__(self, reference: ObjectRef | ObjectRefGenerator) -> None:
        self._call = reference._call
        self._reference = reference

    def __await__(self) -> Generator[Any, None, Any]:
        yield from asyncio.shield(asyncio.wrap_future(self._call.placed)).__await__()
        return self._reference

    def __reduce__(self) -> Any:
        raise RayServeException("A call on its way cannot be pickled; await it for its reference first.")


class ObjectRefGenerator(DeploymentResponseGenerator):
    """The items of a streaming call, each as an `ObjectRef`."""

    __slots__ = ()

    def _read(self, buffers: list[memoryview]) -> Any:
        call = self._call
        item = UnaryCall(call.runtime, call.target, call.head)
        item.on_result(b"", buffers)
        return ObjectRef(item)


class _PlacedCall(HandleCall):
    """A call that tells when a replica has it, or when none ever will."""

    def __init__(self, runtime: Runtime, target: DeploymentId, head: PythonHead) -> None:
        super().__init__(runtime, target, head)
        self.placed: Future[None] = Future()

    def on_sent(self, replica_id: str) -> None:
        super().on_sent(replica_id)
        self._tell()

    def finish(self) -> None:
        super().finish()
        self._tell()

    def _tell(self) -> None:
        if not self.placed.done():
            self.placed.set_result(None)


class _PlacedUnary(_PlacedCall, UnaryCall):
    """One answer."""


class _PlacedStream(_PlacedCall, StreamCall):
    """A stream of items."""


def _start(
    handle: DeploymentHandle, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ObjectRef | ObjectRefGenerator:
    warn_deprecated(
        f"`{type(handle).__name__}` is deprecated. Use `DeploymentHandle`, which "
        "`handle.options(use_new_handle_api=True)` gives: `await handle.remote(...)` is the value itself, and "
        "`handle.remote(...).result()` the same in synchronous code."
    )
    runtime, head = runtime_for(handle.app_name), handle._serve_head()
    reference: ObjectRef | ObjectRefGenerator
    call: _PlacedCall
    if head.streaming:
        call = stream = _PlacedStream(runtime, handle.deployment_id, head)
        reference = ObjectRefGenerator(stream)
    else:
        call = unary = _PlacedUnary(runtime, handle.deployment_id, head)
        reference = ObjectRef(unary)
    call.counts = handle._serve_counts
    call.start(args, kwargs)
    return reference


def _check_reference(ref: Any) -> None:
    if not isinstance(ref, (ObjectRef, DeploymentResponse)):
        raise TypeError(
            f"`serve_lite.get` takes an ObjectRef or a list of them, but got {type(ref).__name__}: {ref!r}."
            + (" Await it first." if isinstance(ref, PendingObjectRef) else "")
        )


def _left(give_up_at: float | None) -> float | None:
    return None if give_up_at is None else max(0.0, give_up_at - time.monotonic())
