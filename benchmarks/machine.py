"""Where and with what a run was made: without it a number says nothing."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil

from benchmarks.contenders.base import program_version
from benchmarks.loads import http


def describe() -> dict[str, str]:
    """Return the machine, its system and the load generator, as words for the report."""
    generator = http.generator()
    if generator == "wrk":
        generator = f"wrk {program_version('wrk', '-v')}, 1 thread"
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores, shared by server and load",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "load": generator,
        "python": platform.python_version(),
    }


def load_average() -> float:
    """Return the one-minute load average: above about 0.3, somebody else is using the machine."""
    return os.getloadavg()[0]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
