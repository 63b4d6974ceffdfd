"""Which user is at the other end of a TCP connection within this machine: the kernel's table of sockets tells
(proc(5), /proc/net/tcp and tcp6).

`uid_in_table` is pure. A connection is looked up once, when it comes; the daemon does so in a thread, since the
table is long on a busy machine.
"""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path
from typing import Final

#: A peer that can still be asked for its user: ESTABLISHED, FIN_WAIT1, FIN_WAIT2 (it has said all it had to say).
#: A socket in another state is not the one that sent the bytes, and the table gives root for one that is gone.
_TELLING_STATES: Final = (b"01", b"04", b"05")

_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def tcp_peer_uid(peer: tuple[str, int], own: tuple[str, int]) -> int | None:
    """Return the user at the other end of a TCP connection; None if nobody can tell.

    Nobody can for a process of another machine or network namespace, for one that has closed its socket, and where
    there is no /proc.

    Args:
        peer, own: addresses of both ends, as sockets tell them.
    """
    for table, is_v6 in zip(_TABLES, (False, True), strict=True):
        ends = _hex(peer, is_v6=is_v6), _hex(own, is_v6=is_v6)
        if ends[0] is None or ends[1] is None:
            continue
        try:
            rows = table.read_bytes()
        except FileNotFoundError:  # no Linux, or no IPv6
            continue
        uid = uid_in_table(rows, ends[0], ends[1])
        if uid is not None:
            return uid
    return None


def uid_in_table(table: bytes, local: bytes, remote: bytes) -> int | None:
    """Return the owner of the socket that is bound to `local` and connected to `remote`.

    Args:
        table: text of /proc/net/tcp or tcp6.
        local, remote: as the table writes them, in hexadecimal: `0100007F:CC8D`.
    """
    found = table.find(b" %b %b " % (local, remote))
    if found < 0:
        return None
    end = table.find(b"\n", found)
    fields = table[found : end if end >= 0 else len(table)].split()
    # local, remote, state, tx:rx queue, timer, retransmits, uid, timeout, inode, ...
    if len(fields) < 9 or fields[2] not in _TELLING_STATES or fields[8] == b"0":
        return None
    return int(fields[6])


def _hex(address: tuple[str, int], *, is_v6: bool) -> bytes | None:
    """Return an address as a table writes it: four bytes at a time, as this machine's integers; None: not in this one.

    IPv4 has its place in the table of IPv6 too, for sockets of that family: as ::ffff:a.b.c.d.
    """
    ip = ipaddress.ip_address(address[0].partition("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    if is_v6:
        packed = ip.packed if ip.version == 6 else b"\0" * 10 + b"\xff\xff" + ip.packed
    elif ip.version == 4 or mapped is not None:
        packed = (mapped or ip).packed
    else:
        return None
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return b"%b:%04X" % (b"".join(b"%08X" % word for word in words), address[1])
