"""A daemon whose sockets come from systemd and not from a keeper: what it has to do for itself.

See sd_listen_fds(3) and sd_notify(3). Imports little, because `entry.py` needs it before anything else is loaded.
"""

from __future__ import annotations

import os
import socket

from serve_lite.daemon.home import Paths
from serve_lite.daemon.keeper import StartError, take_lock

#: What a socket unit may be called with `FileDescriptorName=`.
NAMES = ("control", "admin", "http", "grpc")


def check_activation(inherited: dict[str, int], where: Paths) -> None:
    """Check the sockets that systemd has passed on, and take the lock of the state directory.

    Raises:
        StartError: a unit is wrong, or another instance is up there.
    """
    given = ", ".join(map(repr, inherited)) or "none"
    if unknown := [name for name in inherited if name not in NAMES]:
        raise StartError(
            f"A socket has the name {unknown[0]!r}. Set FileDescriptorName= in each socket unit to one of: "
            f"{', '.join(NAMES)}. `serve systemd --sockets` prints units that fit."
        )
    for name in ("control", "admin"):
        if name not in inherited:
            raise StartError(
                f"No socket has the name {name!r}; there are: {given}. A daemon is started by its keeper (`python -m "
                "serve_lite.daemon.keeper`) or by socket units as `serve systemd --sockets` prints them."
            )
    with socket.socket(fileno=os.dup(inherited["control"])) as control:
        family, address = control.family, control.getsockname()
    if family != socket.AF_UNIX or address != where.control:
        raise StartError(
            f"The control socket is {address!r}, where nobody looks for it. Set ListenStream={where.control} in its "
            "unit, or name the state directory with SERVE_LITE_HOME in the service."
        )
    os.chmod(where.control, 0o600)
    inherited["lock"] = take_lock(where.lock)


def tell_ready(address: str) -> None:
    """Tell systemd that its service is up.

    Args:
        address: NOTIFY_SOCKET as it was; "" if nobody wants to know.
    """
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"READY=1", "\0" + address[1:] if address.startswith("@") else address)
