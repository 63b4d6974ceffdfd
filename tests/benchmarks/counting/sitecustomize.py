"""Counts the calls that a process makes, from one SIGUSR1 to the next, in every interpreter that has us in front.

`test_hot_path` puts this folder into PYTHONPATH of an instance: Python imports a module of this name before anything
else runs, and forks inherit what it has set up. It counts calls of Python functions and of C functions; a call of a
function costs what it costs, and how many there are does not depend on the machine or on who else uses it.

Files in the folder that HOT_PATH_COUNTS names: `PID.on` when counting has begun, `PID.json` when it has ended.
"""

import json
import os
import signal
import sys
from collections import Counter
from types import CodeType, FrameType
from typing import Any

folder = os.environ.get("HOT_PATH_COUNTS", "")
python_calls: Counter[CodeType] = Counter()
c_calls: Counter[str] = Counter()
is_counting = False


def count(frame: FrameType, event: str, argument: Any) -> None:
    if event == "call":
        python_calls[frame.f_code] += 1
    elif event == "c_call":
        c_calls[f"{getattr(argument, '__module__', None) or 'builtins'}.{argument.__qualname__}"] += 1


def switch(number: int, frame: FrameType | None) -> None:
    global is_counting
    is_counting = not is_counting
    if is_counting:
        python_calls.clear()
        c_calls.clear()
        write("on", "")
        sys.setprofile(count)
        return
    sys.setprofile(None)
    calls = Counter(c_calls)
    for code, times in python_calls.items():
        calls[f"{short(code.co_filename)}:{code.co_qualname}"] += times
    write("json", json.dumps(calls))


def short(path: str) -> str:
    """Return a file's path below the folder that is on `sys.path`: the same on every machine."""
    for parent in sorted(sys.path, key=len, reverse=True):
        if parent and path.startswith(parent + os.sep):
            return path[len(parent) + 1 :]
    return path


def write(kind: str, text: str) -> None:
    path = os.path.join(folder, f"{os.getpid()}.{kind}")
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)  # whoever sees it sees all of it


if folder:
    signal.signal(signal.SIGUSR1, switch)
