"""What `busy.py` can do: known to the application and to those who flood it, so without either library."""

from __future__ import annotations

WORK_S = 0.02
REPLICAS, AT_ONCE, QUEUED = 2, 4, 16

RUNNING_AND_WAITING = REPLICAS * AT_ONCE + QUEUED  #: requests that there is room for
TIMES = 5  #: of its capacity are asked in a flood
