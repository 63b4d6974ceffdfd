"""gRPC statuses: their numbers, and which of our errors is which. Used at both ends of a gRPC call."""

from __future__ import annotations

from typing import Final

from serve_lite.exceptions import (
    BackPressureError,
    DeploymentNotFoundError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    RequestCancelledError,
)

NAMES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
OK: Final = 0
CANCELLED: Final = 1
INVALID_ARGUMENT: Final = 3
DEADLINE_EXCEEDED: Final = 4
NOT_FOUND: Final = 5
PERMISSION_DENIED: Final = 7
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14
UNAUTHENTICATED: Final = 16

#: numbers of `grpc.Compression`, and names as headers have them
ENCODINGS: Final = ("identity", "deflate", "gzip")

_LONGEST_DETAILS: Final = 4096
_CUT: Final = "... [truncated]"


def status_of(error: BaseException) -> tuple[int, str]:
    """Return code and details for an error that stands in for an answer."""
    if isinstance(error, BackPressureError):
        return RESOURCE_EXHAUSTED, error.message
    if isinstance(error, DeploymentUnavailableError | DeploymentNotFoundError | ReplicaUnavailableError):
        return UNAVAILABLE, error.message
    if isinstance(error, RequestCancelledError):
        return CANCELLED, str(error)
    return INTERNAL, shortened(str(error))


def shortened(details: str) -> str:
    """Return details that fit into a client's header limits."""
    if len(details) <= _LONGEST_DETAILS:
        return details
    return details[: _LONGEST_DETAILS - len(_CUT)] + _CUT


def timed_out(timeout_s: float) -> str:
    """Return the details of DEADLINE_EXCEEDED."""
    return f"Request timed out after {timeout_s:g}s."
