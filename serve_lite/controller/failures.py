"""From an exception in another process to a message for its author: the traceback, and last the exception and where."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import serve_lite
from serve_lite.controller.importer import BuildError
from serve_lite.wire.connection import RemoteControlError

_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)', re.MULTILINE)
#: As faulthandler writes them, the innermost first.
_CRASH_FRAME = re.compile(r'^  File "(?P<file>[^"]+)", line (?P<line>\d+) in ')
_IMPORT_MACHINERY = "<frozen importlib."
_OUR_CODE = os.path.dirname(os.path.abspath(serve_lite.__file__)) + os.sep


def describe(error: Exception) -> str:
    """Return a text that ends with the user's exception and its `file:line`, as far as they are known."""
    if isinstance(error, BuildError):
        return _ending(error.traceback, error.exception, error.where)
    if isinstance(error, RemoteControlError):
        traceback = without_our_frames(error.traceback)
        return _ending(traceback, f"{error.type_name}: {error.text}", where(traceback))
    return f"{type(error).__name__}: {error}"


def where(traceback: str) -> str:
    """Return `file:line` of the innermost frame that is in a file and not in serve_lite; "" if there is none."""
    places = [(frame["file"], frame["line"]) for frame in _FRAME.finditer(traceback)]
    theirs = [p for p in places if not p[0].startswith(("<", _OUR_CODE))]
    return ":".join(theirs[-1]) if theirs else ""


def without_our_frames(traceback: str) -> str:
    """Return the traceback without the frames of serve_lite, unless it has no others."""
    kept: list[str] = []
    is_ours = False
    for line in traceback.splitlines():
        frame = _FRAME.match(line)
        if frame:
            is_ours = frame["file"].startswith((_OUR_CODE, _IMPORT_MACHINERY))
        elif not line.startswith(" "):
            is_ours = False
        if not is_ours:
            kept.append(line)
    text = "\n".join(kept)
    return text if _FRAME.search(text) else traceback


def last_words(output: Sequence[str], count: int) -> list[str]:
    """Return the last lines that say something: of a crash in a C library the stack down to user code, no further."""
    kept: list[str] = []
    is_below = False  # the frame before was ours: who called user code is of no interest
    for line in output:
        frame = _CRASH_FRAME.match(line)
        is_below = frame is not None and (is_below or frame["file"].startswith(_OUR_CODE))
        if not is_below and not line.startswith("Extension modules: "):
            kept.append(line)
    while kept and not kept[-1].strip():
        kept.pop()
    return kept[-count:]


def _ending(traceback: str, exception: str, place: str) -> str:
    body = traceback.rstrip()
    if body.endswith(exception):
        body = body[: -len(exception)].rstrip()
    last = f"{exception} (at {place})" if place and place not in exception else exception
    return f"{body}\n{last}" if body else last
