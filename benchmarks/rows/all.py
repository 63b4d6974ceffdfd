"""Every row, in the order of the tables and of measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.rows.base import Row
from benchmarks.rows.batching import Batching
from benchmarks.rows.bodies import Chunks, Json, Transfers, WebSockets
from benchmarks.rows.faults import Overload, Recovery
from benchmarks.rows.handles import Arrays, Calls, Composition, Items, Sequential
from benchmarks.rows.requests import Cost, Curve, FastAPI, Noop, Starlette, Sync
from benchmarks.rows.rpc import Grpc
from benchmarks.rows.scaling import Deploy, Scale, Wake
from benchmarks.rows.weight import Idle, Import, Memory, Start

ROWS: Sequence[Row] = (
    Start(),
    Idle(),
    Memory(),
    Import(),
    Noop(),
    Sync(),
    FastAPI(),
    Starlette(),
    Cost(),
    Curve(),
    Json(),
    Transfers(),
    Chunks(),
    WebSockets(),
    Grpc(),
    Sequential(),
    Calls(),
    Items(),
    Arrays(),
    Composition(),
    Batching(),
    Scale(),
    Deploy(),
    Wake(),
    Recovery(),
    Overload(),
)

BY_NAME: Mapping[str, Row] = {row.name: row for row in ROWS}

#: Words for several rows at once.
GROUPS: Mapping[str, Sequence[str]] = {
    "weight": ("start", "idle", "memory", "import"),
    "requests": ("noop", "sync", "fastapi", "starlette", "cost"),
    "bodies": ("json", "transfers", "chunks", "websocket"),
    "handles": ("handle", "calls", "items", "arrays", "composition"),
    "scaling": ("scale", "deploy", "wake"),
    "faults": ("recovery", "overload"),
}
