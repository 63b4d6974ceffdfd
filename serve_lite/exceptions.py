"""Every error a user can see, as one tree.

    ServeLiteError
      RayServeException (alias ServeException)   generic: wrong place, missing app, bad graph, batch size mismatch
        BackPressureError                        the queue limit of a deployment was reached
        RequestCancelledError                    this request was cancelled (also a TaskCancelledError)
        DeploymentUnavailableError               the deployment failed to deploy
        DeploymentNotFoundError                  the application or deployment does not exist (any more)
        ReplicaUnavailableError                  a chosen replica is gone
        ReplicaDiedError                         the replica's process ended while it ran this request
        UnknownMethodError                       a handle calls a method that the deployment does not have
        RemoteUserError                          a user exception that could not travel; carries type name and text
        gRPCStatusError                          a user exception with a gRPC status code
      TaskCancelledError                         base of RequestCancelledError; Ray's name for it
      InvalidConfigError (also ValueError)       a configuration is wrong; says where
      InstanceError (also RuntimeError)          the instance cannot be started, found or reached
        PortInUseError                           a listening address is taken; names the process when it can be known

Names that Ray Serve gives keep Ray Serve's names and constructor arguments. What a user's handler raises reaches
the caller as it is, and is none of these. `message`, where there is one, is what an HTTP client is told; `str()`
adds what the caller's author can do. All of them can be pickled.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "BackPressureError",
    "DeploymentNotFoundError",
    "DeploymentUnavailableError",
    "InstanceError",
    "InvalidConfigError",
    "PortInUseError",
    "RayServeException",
    "RemoteUserError",
    "ReplicaDiedError",
    "ReplicaUnavailableError",
    "RequestCancelledError",
    "ServeException",
    "ServeLiteError",
    "TaskCancelledError",
    "UnknownMethodError",
    "gRPCStatusError",
]


class ServeLiteError(Exception):
    """Base of every error raised on purpose by serve_lite. Catch it to tell ours from those of handlers."""


class RayServeException(ServeLiteError):
    """A Serve call was used in a wrong place or way. The message says which, and what to do instead."""

    path: str = ""  #: where in the configuration document, if it is about one


ServeException = RayServeException


class TaskCancelledError(ServeLiteError):
    """A piece of remote work was cancelled. Ray's name; raised here as `RequestCancelledError` only."""


class BackPressureError(RayServeException):
    """A request was refused because `max_queued_requests` calls already wait in this caller.

    It has not run, so it may be sent again: later, or to something less busy. If it comes often, the deployment
    needs more replicas or a higher limit. HTTP clients get `status_code` and `message`.

    Args:
        num_queued_requests: calls waiting for a replica when this one arrived.
        max_queued_requests: the deployment's limit.
        status_code: HTTP status to answer with, 503 or 429.
        retry_after_s: seconds for the `Retry-After` header, or None for no header.
    """

    def __init__(
        self,
        num_queued_requests: int,
        max_queued_requests: int,
        status_code: int = 503,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(num_queued_requests, max_queued_requests, status_code, retry_after_s)
        self.num_queued_requests = num_queued_requests
        self.max_queued_requests = max_queued_requests
        self.status_code = status_code
        self.retry_after_s = retry_after_s

    @property
    def message(self) -> str:
        """What happened, with the numbers."""
        return (
            f"Request dropped due to backpressure (num_queued_requests={self.num_queued_requests}, "
            f"max_queued_requests={self.max_queued_requests})."
        )

    def __str__(self) -> str:
        return self.message


class RequestCancelledError(RayServeException, TaskCancelledError):
    """This request was cancelled: by `cancel()`, or because the request it was made for was.

    Not an `asyncio.CancelledError`: the task that waits goes on, and may catch it. Nothing is to be done about it
    unless nobody meant to cancel; then look for a client that left or a time-out further up.

    Args:
        request_id: of the cancelled request, as in its `X-Request-ID` header and the logs.
    """

    def __init__(self, request_id: str | None = None) -> None:
        super().__init__(request_id)
        self.request_id = request_id

    def __str__(self) -> str:
        if self.request_id:
            return f"Request {self.request_id} was cancelled."
        return "Request was cancelled."


class DeploymentUnavailableError(RayServeException):
    """The deployment failed to deploy, so no replica will answer until the next deploy.

    `serve.status()` has the reason in the deployment's message. HTTP clients get 503 and `message`.

    Args:
        deployment_id: which one.
    """

    def __init__(self, deployment_id: Any) -> None:
        super().__init__(deployment_id)
        self.deployment_id = deployment_id

    @property
    def message(self) -> str:
        """What happened."""
        return f"{self.deployment_id} is unavailable because it failed to deploy."

    def __str__(self) -> str:
        return f"{self.message} The reason is in serve.status() and its replicas' logs; deploy again once it is fixed."


class DeploymentNotFoundError(RayServeException):
    """No such application or deployment, or it was deleted while the call waited.

    Compare the names with `serve.status()`, or deploy it first. HTTP clients get 503 and `message`.

    Args:
        deployment_id: which one.
    """

    def __init__(self, deployment_id: Any) -> None:
        super().__init__(deployment_id)
        self.deployment_id = deployment_id

    @property
    def message(self) -> str:
        """What happened."""
        return f"{self.deployment_id} does not exist; it was never deployed or has been deleted."

    def __str__(self) -> str:
        return f"{self.message} Deploy it first, or compare the names with serve.status()."


class ReplicaUnavailableError(RayServeException):
    """A replica that was chosen explicitly can no longer be reached. The call has not run; choose again.

    Args:
        replica_id: which one.
    """

    def __init__(self, replica_id: Any) -> None:
        super().__init__(replica_id)
        self.replica_id = replica_id

    @property
    def message(self) -> str:
        """What happened."""
        return f"Replica {self.replica_id} is no longer available."

    def __str__(self) -> str:
        return f"{self.message} The call was not sent; choose a replica again."


class UnknownMethodError(RayServeException):
    """A handle calls a method that the deployment does not have, or not in the version that runs.

    Args:
        method: that was called.
        known: methods that can be called.
        replica_id, version: who was called, and which version it runs.
        caller_id, caller_version: the same of the replica that called; empty for other callers.
    """

    def __init__(
        self,
        method: str,
        known: list[str],
        replica_id: str = "",
        version: str = "",
        caller_id: str = "",
        caller_version: str = "",
    ) -> None:
        super().__init__(method, known, replica_id, version, caller_id, caller_version)
        self.method, self.known = method, known
        self.replica_id, self.version = replica_id, version
        self.caller_id, self.caller_version = caller_id, caller_version

    def called_by(self, caller_id: str, caller_version: str) -> UnknownMethodError:
        """Return the same with who called."""
        return UnknownMethodError(
            self.method, self.known, self.replica_id, self.version, caller_id, caller_version
        )

    def __str__(self) -> str:
        text = f"Tried to call a method '{self.method}' that does not exist. Available methods: {self.known}."
        if self.version:
            text += f" Replica {self.replica_id} runs version {self.version}"
            text += (
                f"; its caller, {self.caller_id}, version {self.caller_version}." if self.caller_id else "."
            )
        return text


class ReplicaDiedError(RayServeException):
    """The replica's process ended after it had accepted this request, so it may have run.

    Such a request is never retried by Serve: running it twice could do harm. Call again if yours cannot; a new
    replica is on its way. Ray raises its RayActorError here.

    Args:
        replica_id: which one.
        detail: how the process ended, if known.
    """

    def __init__(self, replica_id: str, detail: str = "") -> None:
        super().__init__(replica_id, detail)
        self.replica_id = replica_id
        self.detail = detail

    def __str__(self) -> str:
        tail = f" ({self.detail})" if self.detail else ""
        return (
            f"Replica {self.replica_id} died while it was running this request{tail}. The request may have run, so it "
            "was not repeated; call again if running it twice does no harm. Why it died is in the replica's log."
        )


class RemoteUserError(RayServeException):
    """A user exception that could not be pickled; its type name and text are kept.

    To catch it by its own class, let its constructor take what it passes to `super().__init__`, and give it no
    attributes that cannot be pickled.

    Args:
        type_name: name of the exception's class.
        text: its `str()`.
        traceback_text: where it was raised, as text.
    """

    def __init__(self, type_name: str, text: str, traceback_text: str = "") -> None:
        super().__init__(type_name, text, traceback_text)
        self.type_name = type_name
        self.text = text
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        return f"{self.type_name}: {self.text}"


class gRPCStatusError(RayServeException):  # noqa: N801  (Ray Serve's name)
    """A user exception together with the gRPC status that the user had set. gRPC clients get that status.

    Args:
        original_exception: what the handler raised.
        code: the `grpc.StatusCode` set on the context; None for INTERNAL.
        details: the text set on the context; None for the exception's own.
    """

    def __init__(
        self, original_exception: BaseException, code: Any = None, details: str | None = None
    ) -> None:
        super().__init__(original_exception, code, details)
        self.original_exception = original_exception
        self.grpc_code = code
        self.grpc_details = details

    def __str__(self) -> str:
        code = f" (gRPC status {self.grpc_code})" if self.grpc_code is not None else ""
        return f"{self.grpc_details or self.original_exception}{code}"


class InvalidConfigError(ServeLiteError, ValueError):
    """A configuration document or option is wrong; the message says what, where, and what would be right.

    Nothing has changed. A value of the wrong kind in code raises one that is a TypeError too.
    """

    path: str = ""  #: where in the document, for example "applications[0].deployments[1].num_replicas"


class InstanceError(ServeLiteError, RuntimeError):
    """The instance cannot be started, found or reached; the message says what to look at."""


class PortInUseError(InstanceError):
    """A listening address is already taken. Choose another port, or stop what holds this one.

    Args:
        host, port: the address.
        holder: the process that holds it, if it can be known.
    """

    def __init__(self, host: str, port: int, holder: str | None = None) -> None:
        super().__init__(host, port, holder)
        self.host, self.port, self.holder = host, port, holder

    def __str__(self) -> str:
        by = f" It is held by {self.holder}." if self.holder else ""
        return (
            f"Failed to bind to address '{self.host}:{self.port}': the port is in use.{by} "
            "Choose another port or stop what holds this one."
        )
