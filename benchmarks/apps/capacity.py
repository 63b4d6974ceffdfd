"""What `busy.py` can do: known to the application and to those who flood it, so without either library."""

from __future__ import annotations

WORK_S = 0.02
REPLICAS, AT_ONCE, QUEUED = 2, 4, 16

RUNNING = REPLICAS * AT_ONCE  #: requests that run at once
RUNNING_AND_WAITING = RUNNING + QUEUED  #: requests that there is room for
TIMES = 5  #: of its capacity are asked in a flood
