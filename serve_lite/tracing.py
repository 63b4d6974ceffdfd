"""`get_trace_context`, for code that hands the current span on to other libraries."""

from __future__ import annotations

__all__ = ["get_trace_context"]


def get_trace_context() -> None:
    """Return None: tracing is off. (`tracing_config` is accepted and has no effect yet.)

    Ray Serve returns the OpenTelemetry context of the current request, and None too while tracing is off, so
    that code written for it already copes. The `traceparent` header that came with a request is in
    `serve_lite.context._serve_request_context.get().traceparent`.
    """
    return None
