"""Python values <-> buffers: pickle protocol 5, large buffers out of band.

The first buffer is the pickle, the others are what it refers to. Plain pickle is tried first and
cloudpickle only where it fails or where a value lives in `__main__`, which names another module in
another process.

The only module that unpickles, which a test sees to. What `loads` is given came over a Unix socket whose other end
was checked, or was written by this very process; the daemon never calls it, and nothing that a port of TCP brings is
ever given to it.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any, Final

from serve_lite.wire.frames import MAX_BUFFERS, Buffer

_OUT_OF_BAND_BYTES: Final = 32 * 1024  #: smaller ones are cheaper inside the pickle


def dumps(value: Any) -> list[Buffer]:
    """Return `value` as buffers.

    Raises:
        Exception: whatever the value's own pickling raises, when cloudpickle fails too.
    """
    buffers: list[Buffer] = []

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _OUT_OF_BAND_BYTES or len(buffers) >= MAX_BUFFERS - 1:
            return True
        buffers.append(raw)
        return False

    try:
        data = pickle.dumps(value, 5, buffer_callback=keep_in_band)
        if b"__main__" not in data:
            return [data, *buffers] if buffers else [data]
    except (pickle.PicklingError, AttributeError, TypeError):
        pass  # not plainly picklable (a lambda, a local class): cloudpickle raises if it cannot either
    import cloudpickle  # lazily: most processes never need it for values

    buffers.clear()
    out = io.BytesIO()
    cloudpickle.Pickler(out, protocol=5, buffer_callback=keep_in_band).dump(value)
    return [out.getvalue(), *buffers]


def loads(buffers: Sequence[Buffer]) -> Any:
    """Return the value. Arrays made from out-of-band buffers share the received memory, and may be written to."""
    beside = buffers[1:]
    if beside:
        beside = [_writable(buffer) for buffer in beside]
    return pickle.loads(buffers[0], buffers=beside)


def _writable(buffer: Buffer) -> Buffer:
    """Copy what one read from the socket brought, which is `bytes` and small; larger ones lie in memory of their own.

    Else it would depend on how the bytes were cut whether an array can be written to. What was read-only at the sender
    stays so: the pickle says it.
    """
    return bytearray(buffer) if memoryview(buffer).readonly else buffer
