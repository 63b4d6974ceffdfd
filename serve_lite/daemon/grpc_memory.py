"""What a keeper's first daemon has learned of the gRPC services, for those that follow it.

A daemon that takes over must neither wait for an import nor end because a file has been edited meanwhile.
"""

from __future__ import annotations

import os

import msgspec

from serve_lite.processes import start_time_of
from serve_lite.wire.spawning import GrpcServices


class _Kept(msgspec.Struct, frozen=True):
    keeper: tuple[int, int]  #: pid and start time
    services: GrpcServices


class GrpcMemory:
    """A file in the state directory that counts as long as the keeper lives that it was written under.

    Args:
        keeper_pid: 0 if there is none; then nothing is kept.
    """

    def __init__(self, home: str, keeper_pid: int) -> None:
        self._path = os.path.join(home, "grpc.msgpack")
        self._keeper = (keeper_pid, start_time_of(keeper_pid) or 0 if keeper_pid else 0)

    def recall(self) -> GrpcServices | None:
        """Return what an earlier daemon of this keeper kept."""
        try:
            with open(self._path, "rb") as file:
                kept = msgspec.msgpack.decode(file.read(), type=_Kept)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return kept.services if kept.keeper == self._keeper and self._keeper[0] else None

    def keep(self, services: GrpcServices) -> None:
        """Keep it for the next daemon."""
        if not self._keeper[0]:
            return
        unready = self._path + "~"
        with open(unready, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(msgspec.msgpack.encode(_Kept(self._keeper, services)))
        os.replace(unready, self._path)
