"""`GET /api/serve/controller_health`: how the controller fares, in Ray Serve's words (`ControllerHealthMetrics`).

Ray's controller looks ten times a second; this one sleeps until something happens. So a small number of passes is good
news here, `expected_sleep_duration_s` is null while the loop waits for an event alone, and what is reported to the
controller and how it went about it (durations of updates, delays of metrics) has no counterpart.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from serve_lite.admin.controls import Controls, answer, routes_for
from serve_lite.admin.endpoints import Endpoint
from serve_lite.controller.pulse import DurationStats, PulseView

PATH = "/api/serve/controller_health"


class ControllerHealthMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of the controller. Times are seconds since 1970, durations are seconds."""

    timestamp: float
    controller_start_time: float
    uptime_s: float
    last_control_loop_time: float | None
    num_control_loops: int
    loop_duration_s: DurationStats  #: of the last thousand passes
    loops_per_second: float
    last_sleep_duration_s: float
    expected_sleep_duration_s: float | None
    event_loop_delay_s: (
        float  #: how long a callback that is ready waits for its turn, measured for this answer
    )
    num_asyncio_tasks: int
    process_memory_mb: float  #: resident, of the whole daemon


ENDPOINTS = (
    Endpoint(
        id="get_controller_health",
        method="GET",
        path=PATH,
        summary="How the controller fares",
        about="Ray Serve's `ControllerHealthMetrics`, as far as a loop that sleeps until something happens has them.",
        answer=ControllerHealthMetrics,
    ),
)


def routes(controls: Controls) -> list[BaseRoute]:
    """Return the routes, with and without the trailing slash."""

    async def get(request: Request) -> Response:
        return answer(await controller_health(controls))

    return routes_for(PATH, {"GET": get})


async def controller_health(controls: Controls) -> ControllerHealthMetrics:
    """Return how the controller of this process fares. Takes one turn of the event loop."""
    delay_s = await event_loop_delay()
    return health_metrics(
        controls.pulse(),
        timestamp=time.time(),
        event_loop_delay_s=delay_s,
        tasks=len(asyncio.all_tasks()),
        memory_bytes=resident_bytes(),
    )


def health_metrics(
    pulse: PulseView, *, timestamp: float, event_loop_delay_s: float, tasks: int, memory_bytes: int
) -> ControllerHealthMetrics:
    """Return a view of the loop in Ray Serve's words; its own clock's times become those of `timestamp`."""

    def wall(at: float) -> float:
        return timestamp - (pulse.now - at)

    return ControllerHealthMetrics(
        timestamp=timestamp,
        controller_start_time=wall(pulse.started_at),
        uptime_s=pulse.now - pulse.started_at,
        last_control_loop_time=None if pulse.last_pass_at is None else wall(pulse.last_pass_at),
        num_control_loops=pulse.passes,
        loop_duration_s=pulse.pass_duration_s,
        loops_per_second=pulse.passes_per_s,
        last_sleep_duration_s=pulse.last_sleep_s,
        expected_sleep_duration_s=pulse.expected_sleep_s,
        event_loop_delay_s=event_loop_delay_s,
        num_asyncio_tasks=tasks,
        process_memory_mb=memory_bytes / 2**20,
    )


async def event_loop_delay() -> float:
    """Return how long a callback waits that is ready now, in seconds."""
    asked = time.monotonic()
    await asyncio.sleep(0)  # behind everything that is ready
    return time.monotonic() - asked


def resident_bytes() -> int:
    """Return how much memory this process has in RAM."""
    try:
        pages = Path("/proc/self/statm").read_bytes().split()[1]
    except FileNotFoundError:
        import psutil  # only where there is no /proc

        return int(psutil.Process().memory_info().rss)
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
