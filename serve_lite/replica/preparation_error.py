"""What a preparer says when it cannot."""

from __future__ import annotations

from serve_lite.exceptions import ServeLiteError


class PreparationError(ServeLiteError):
    """A part of an environment cannot be prepared; the message is for the author of the `runtime_env`."""
