"""Handles: Python objects that send calls to a deployment. What they return is in `responses.py`."""

from __future__ import annotations

from typing import Any

import msgspec

from serve_lite.context import current_request, new_request_id
from serve_lite.responses import DeploymentResponse, DeploymentResponseGenerator, StreamCall, UnaryCall
from serve_lite.routing import runtime as caller_runtime
from serve_lite.routing.runtime import Runtime
from serve_lite.state.ids import DeploymentId
from serve_lite.wire.messages import PythonHead

__all__ = ["DeploymentHandle", "DeploymentResponse", "DeploymentResponseGenerator", "HandleOptions"]


class HandleOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What `DeploymentHandle.options` can set."""

    method_name: str = "__call__"
    multiplexed_model_id: str = ""
    session_id: str = ""
    stream: bool = False


class DeploymentHandle:
    """Sends calls to one deployment: `handle.remote(...)`, `handle.method.remote(...)`.

    Making one connects to nothing; it can be pickled and passed around. Names that begin and end with
    two underscores are not methods of the deployment (use `options(method_name=...)` for those).
    """

    def __init__(
        self, deployment_name: str, app_name: str = "default", *, _options: HandleOptions | None = None
    ) -> None:
        self.deployment_name = deployment_name
        self.app_name = app_name
        self.handle_options = _options or HandleOptions()

    @property
    def deployment_id(self) -> DeploymentId:
        """Name of deployment and application."""
        return DeploymentId(name=self.deployment_name, app_name=self.app_name)

    def options(
        self,
        *,
        method_name: str | None = None,
        multiplexed_model_id: str | None = None,
        session_id: str | None = None,
        stream: bool | None = None,
        use_new_handle_api: bool | None = None,
        _prefer_local_routing: bool | None = None,
    ) -> DeploymentHandle:
        """Return a handle with these options changed.

        `use_new_handle_api` and `_prefer_local_routing` are accepted for code written for a cluster; every
        handle is of the new kind and every replica is local.
        """
        given = {
            "method_name": method_name,
            "multiplexed_model_id": multiplexed_model_id,
            "session_id": session_id,
            "stream": stream,
        }
        changed = msgspec.structs.replace(
            self.handle_options, **{k: v for k, v in given.items() if v is not None}
        )
        return DeploymentHandle(self.deployment_name, self.app_name, _options=changed)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Start a call; returns a `DeploymentResponse`, or a `DeploymentResponseGenerator` with `stream=True`.

        Never blocks. What goes wrong is raised when the response is awaited or iterated.

        Raises:
            RayServeException: Serve does not run here.
        """
        runtime = caller_runtime.local(self.app_name) or _runtime()
        options = self.handle_options
        parent = current_request()
        head = PythonHead(
            options.method_name,
            options.stream,
            parent.request_id if parent is not None and parent.request_id else new_request_id(),
            parent.deadline if parent is not None else 0.0,
            self.app_name,
            parent.route if parent is not None else "",
            options.multiplexed_model_id,
            options.session_id,
            parent.traceparent if parent is not None else "",
        )
        if options.stream:
            streaming = StreamCall(runtime, self.deployment_id, head)
            generator = DeploymentResponseGenerator(streaming)
            streaming.start(args, kwargs)
            return generator
        unary = UnaryCall(runtime, self.deployment_id, head)
        unary.start(args, kwargs)
        return DeploymentResponse(unary)

    def __getattr__(self, name: str) -> DeploymentHandle:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self.options(method_name=name)

    def __reduce__(self) -> Any:
        return _make_handle, (
            self.deployment_name,
            self.app_name,
            msgspec.structs.asdict(self.handle_options),
        )

    def __repr__(self) -> str:
        return f"DeploymentHandle(deployment='{self.deployment_name}')"


def _make_handle(deployment: str, app: str, options: dict[str, Any]) -> DeploymentHandle:
    return DeploymentHandle(deployment, app, _options=HandleOptions(**options))


def _runtime() -> Runtime:
    runtime = caller_runtime.installed()
    if runtime is None:
        import importlib  # a handle that arrived in a fresh process finds the instance the way `serve.run` does

        runtime = importlib.import_module("serve_lite.api").connect_handles()
    return runtime
