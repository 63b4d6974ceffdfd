"""Every error a user can see, as one tree.

    ServeLiteError
      RayServeException (alias ServeException)   generic: wrong place, missing app, bad graph, batch size mismatch
        BackPressureError                        the queue limit of a deployment was reached
        RequestCancelledError                    this request was cancelled (also a TaskCancelledError)
        DeploymentUnavailableError               the deployment failed to deploy
        DeploymentNotFoundError                  the application or deployment does not exist (any more)
        ReplicaUnavailableError                  a chosen replica is gone
        ReplicaDiedError                         the replica's process ended while it ran this request
        RemoteUserError                          a user exception that could not travel; carries type name and text
        gRPCStatusError                          a user exception with a gRPC status code
      InvalidConfigError (also ValueError)       a configuration is wrong; says where
      InstanceError                              the instance cannot be started, found or reached
        PortInUseError                           a listening address is taken; names the process when it can be known

Names that Ray Serve gives keep Ray Serve's names and constructor arguments.
"""

from __future__ import annotations

from typing import Any


class ServeLiteError(Exception):
    """Base of every error raised on purpose by serve_lite."""


class RayServeException(ServeLiteError):
    """A Serve call was used in a wrong place or way; the message says which."""


ServeException = RayServeException


class TaskCancelledError(ServeLiteError):
    """A piece of remote work was cancelled. Name known from Ray core."""


class BackPressureError(RayServeException):
    """A request was refused because `max_queued_requests` calls already wait.

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
        return (
            f"Request dropped due to backpressure (num_queued_requests={self.num_queued_requests}, "
            f"max_queued_requests={self.max_queued_requests})."
        )

    def __str__(self) -> str:
        return self.message


class RequestCancelledError(RayServeException, TaskCancelledError):
    """This request was cancelled, by its caller or because its parent was."""

    def __init__(self, request_id: str | None = None) -> None:
        super().__init__(request_id)
        self.request_id = request_id

    def __str__(self) -> str:
        if self.request_id:
            return f"Request {self.request_id} was cancelled."
        return "Request was cancelled."


class DeploymentUnavailableError(RayServeException):
    """The deployment failed to deploy, so no replica will answer until the next deploy."""

    def __init__(self, deployment_id: Any) -> None:
        super().__init__(deployment_id)
        self.deployment_id = deployment_id

    @property
    def message(self) -> str:
        return f"{self.deployment_id} is unavailable because it failed to deploy."

    def __str__(self) -> str:
        return self.message


class DeploymentNotFoundError(RayServeException):
    """No such application or deployment, or it was deleted while the call waited."""

    def __init__(self, deployment_id: Any) -> None:
        super().__init__(deployment_id)
        self.deployment_id = deployment_id

    @property
    def message(self) -> str:
        return f"{self.deployment_id} does not exist; it was never deployed or has been deleted."

    def __str__(self) -> str:
        return self.message


class ReplicaUnavailableError(RayServeException):
    """A replica that was chosen explicitly can no longer be reached."""

    def __init__(self, replica_id: Any) -> None:
        super().__init__(replica_id)
        self.replica_id = replica_id

    @property
    def message(self) -> str:
        return f"Replica {self.replica_id} is no longer available."

    def __str__(self) -> str:
        return self.message


class ReplicaDiedError(RayServeException):
    """The replica's process ended after it had accepted this request, so it may have run.

    Such a request is never retried by Serve: running it twice could do harm.
    """

    def __init__(self, replica_id: str, detail: str = "") -> None:
        super().__init__(replica_id, detail)
        self.replica_id = replica_id
        self.detail = detail

    def __str__(self) -> str:
        tail = f" ({self.detail})" if self.detail else ""
        return f"Replica {self.replica_id} died while it was running this request{tail}."


class RemoteUserError(RayServeException):
    """A user exception that could not be pickled; its type name and text are kept."""

    def __init__(self, type_name: str, text: str, traceback_text: str = "") -> None:
        super().__init__(type_name, text, traceback_text)
        self.type_name = type_name
        self.text = text
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        return f"{self.type_name}: {self.text}"


class gRPCStatusError(RayServeException):  # noqa: N801  (Ray Serve's name)
    """A user exception together with the gRPC status that the user had set."""

    def __init__(
        self, original_exception: BaseException, code: Any = None, details: str | None = None
    ) -> None:
        super().__init__(original_exception, code, details)
        self.original_exception = original_exception
        self.grpc_code = code
        self.grpc_details = details


class InvalidConfigError(ServeLiteError, ValueError):
    """A configuration document or option is wrong; the message says what, where, and what would be right."""

    path: str = ""  #: where in the document, for example "applications[0].deployments[1].num_replicas"


class InstanceError(ServeLiteError, RuntimeError):
    """The instance cannot be started, found or reached."""


class PortInUseError(InstanceError):
    """A listening address is already taken."""

    def __init__(self, host: str, port: int, holder: str | None = None) -> None:
        super().__init__(host, port, holder)
        self.host, self.port, self.holder = host, port, holder

    def __str__(self) -> str:
        by = f" It is held by {self.holder}." if self.holder else ""
        return (
            f"Failed to bind to address '{self.host}:{self.port}': the port is in use.{by} "
            "Choose another port or stop what holds this one."
        )
