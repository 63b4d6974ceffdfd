"""Whose process is at the other end: of the admin port, the control socket and a replica's socket.

Some of these need another user to connect, so they run as root only.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from serve_lite.daemon.home import paths
from serve_lite.daemon.tcp_peer import _hex, tcp_peer_uid, uid_in_table
from serve_lite.exceptions import InstanceError
from tests.instances import Instance, Instances

NOBODY = 65534
PATIENCE_S = 30

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

#: As the kernel writes it: a listener, both ends of a connection, one whose end is gone (the owner is told as root),
#: one that is waiting to connect.
TABLE = b"""\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:CC8D 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4729897 1 0000 100 0 0 10 0
   1: 0100007F:CC8D 0100007F:A001 01 00000000:00000000 00:00000000 00000000  1000        0 4729898 1 0000 20 4 30 10 -1
   2: 0100007F:A001 0100007F:CC8D 01 00000000:00000000 00:00000000 00000000  1001        0 4729899 1 0000 20 4 30 10 -1
   3: 0100007F:A002 0100007F:CC8D 05 00000000:00000000 00:00000000 00000000  1002        0 4729900 1 0000 20 4 30 10 -1
   4: 0100007F:A003 0100007F:CC8D 05 00000000:00000000 00:00000000 00000000     0        0 0 1 0000 20 4 30 10 -1
   5: 0100007F:A004 0100007F:CC8D 06 00000000:00000000 03:00001770 00000000     0        0 0 3 0000
   6: 0100007F:A005 0100007F:CC8D 02 00000000:00000000 01:00000064 00000000     0        0 4729903 1 0000 20 4 30 10 -1
"""


@pytest.mark.parametrize(
    ("port", "uid"),
    [(0xA001, 1001), (0xA002, 1002), (0xA003, None), (0xA004, None), (0xA005, None), (1, None)],
)
def test_only_a_socket_that_is_still_held_tells_its_user(port: int, uid: int | None) -> None:
    assert uid_in_table(TABLE, b"0100007F:%04X" % port, b"0100007F:CC8D") == uid


def test_a_table_that_ends_early_tells_nothing() -> None:
    local, remote = b"0100007F:A001", b"0100007F:CC8D"
    end = TABLE.index(b"4729899")
    assert uid_in_table(TABLE[: end - 1], local, remote) is None
    assert uid_in_table(b"", local, remote) is None


@pytest.mark.skipif(sys.byteorder != "little", reason="the kernel writes the machine's own integers")
def test_addresses_are_written_as_the_kernel_does() -> None:
    assert _hex(("127.0.0.1", 52365), is_v6=False) == b"0100007F:CC8D"
    assert _hex(("::1", 52365), is_v6=True) == b"00000000000000000000000001000000:CC8D"
    assert _hex(("127.0.0.1", 1), is_v6=True) == b"0000000000000000FFFF00000100007F:0001"
    assert _hex(("::ffff:127.0.0.1", 1), is_v6=False) == b"0100007F:0001"
    assert _hex(("::1", 1), is_v6=False) is None


@pytest.fixture(params=["127.0.0.1", "::1", "::"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection, to a listener of either family, and of both."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    to = "127.0.0.1" if request.param == "::" else request.param
    with socket.create_server(
        (request.param, 0), family=family, dualstack_ipv6=request.param == "::"
    ) as listener:
        with socket.create_connection((to, listener.getsockname()[1]), timeout=PATIENCE_S) as client:
            accepted, _ = listener.accept()
            with accepted:
                yield client, accepted


def test_the_kernel_tells_who_connects_until_he_has_left(ends: tuple[socket.socket, socket.socket]) -> None:
    client, accepted = ends
    both = accepted.getpeername()[:2], accepted.getsockname()[:2]
    assert tcp_peer_uid(*both) == os.geteuid()
    client.shutdown(socket.SHUT_WR)
    assert tcp_peer_uid(*both) == os.geteuid()
    client.close()
    assert tcp_peer_uid(*both) is None


#: Becomes another user with all loaded that is needed: the interpreter may lie where only root can read.
BECOME_NOBODY = f"""
import encodings.idna, http.client, os, select, socket, sys
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
"""


def nobody(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start Python as another user."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", BECOME_NOBODY + code, *arguments]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def as_nobody(code: str, *arguments: str) -> str:
    """Run Python as another user; return what it printed."""
    with nobody(code, *arguments) as process:
        said, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, error
    return said


ASK = """
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
headers = {"authorization": "Bearer " + sys.argv[2]} if len(sys.argv) > 2 else {}
for method, path in (("GET", "/api/serve/applications/"), ("PROPFIND", "/nowhere"), ("GET", "/metrics"),
                     ("GET", "/-/healthz"), ("OPTIONS", "*")):
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    answer.read()
    print(answer.status)
"""

#: Sends a whole request and is gone at once: the kernel then tells root as the owner of its socket.
SEND_AND_LEAVE = """
REQUEST = b"DELETE /api/serve/applications/ HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n"
for _ in range(50):
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30) as client:
        client.sendall(REQUEST)
"""


@needs_root
async def test_another_user_of_the_machine_needs_the_token(daemon: Instance) -> None:
    port = str(daemon.info.admin_port)
    assert set(as_nobody(ASK, port).split()) == {"401"}
    token = Path(daemon.paths.token).read_text().strip()
    assert as_nobody(ASK, port, token).split()[0] == "200"
    assert set(as_nobody(ASK, port, token[:-1]).split()) == {"401"}


@needs_root
async def test_who_has_left_before_his_request_is_read_is_not_taken_for_root(daemon: Instance) -> None:
    (Path(daemon.home) / "left_app.py").write_text(
        "from serve_lite import deployment\n"
        "@deployment\n"
        "class Left:\n"
        "    def __call__(self): return 'here'\n"
        "app = Left.bind()\n"
    )
    await daemon.deploy("left_app:app", folder=daemon.home)
    as_nobody(SEND_AND_LEAVE, str(daemon.info.admin_port))
    assert (await daemon.admin.get("/-/healthz")).status_code == 200  # behind all of them
    assert set((await daemon.status()).applications) == {"default"}


@needs_root
async def test_strangers_who_hold_connections_do_not_keep_the_owner_out(daemon: Instance) -> None:
    with nobody(HOLD, str(daemon.info.admin_port)) as holder:
        assert holder.stdout is not None
        cut = await anyio.to_thread.run_sync(holder.stdout.readline)
        assert int(cut) >= 200 - 64
        assert (await daemon.admin.get("/-/healthz")).status_code == 200
        holder.kill()


#: Holds two hundred connections and tells how many of them were cut.
HOLD = """
held = [socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30) for _ in range(200)]
left = set(held)
while len(left) > 64:
    for sock in select.select(list(left), [], [], 30)[0]:
        left.discard(sock)
print(200 - len(left), flush=True)
sys.stdin.read()
"""

#: Connects and says what a caller would; prints what it hears until the other end closes.
CALL = """
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(30)
sock.connect(sys.argv[1])
heard = b""
try:
    sock.sendall(b"\\0" * 4096)
    while piece := sock.recv(4096):
        heard += piece
except ConnectionError:
    pass
print(len(heard))
"""


def open_up(path: str) -> None:
    """Let every user reach a socket file, as if the modes of the folders were wrong."""
    os.chmod(path, 0o777)
    folder = os.path.dirname(path)
    while folder != "/":
        os.chmod(folder, stat.S_IMODE(os.stat(folder).st_mode) | 0o001)
        folder = os.path.dirname(folder)


@needs_root
async def test_the_sockets_hang_up_on_another_user_even_where_he_can_reach_them(daemon: Instance) -> None:
    (Path(daemon.home) / "socket_app.py").write_text(
        "from serve_lite import deployment\n"
        "@deployment\n"
        "class Here:\n"
        "    def __call__(self): return 'here'\n"
        "app = Here.bind()\n"
    )
    await daemon.deploy("socket_app:app", folder=daemon.home)
    sockets = [
        os.path.join(daemon.paths.run, name)
        for name in os.listdir(daemon.paths.run)
        if name.endswith(".sock")
    ]
    assert {os.path.basename(path)[:2] for path in sockets} == {"co", "r-"}
    for path in sockets:
        assert stat.S_IMODE(os.stat(path).st_mode) & 0o077 == 0
        open_up(path)
        assert as_nobody(CALL, path) == "0\n", path
    for folder in (daemon.home, daemon.paths.run):
        os.chmod(folder, 0o700)
    assert (await daemon.http.get("/")).text == "here"


# --- directories and sockets of others ---


def test_a_link_in_the_place_of_the_sockets_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In /tmp another user can make one with the name that ours would have."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    where = paths(str(tmp_path / ("long" * 30)))
    assert where.run != where.home
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    os.symlink(own, where.run)
    with pytest.raises(InstanceError, match="is a link"):
        where.prepare()
    assert list(own.iterdir()) == []


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_a_state_directory_that_others_can_enter_is_refused_unless_empty(mode: int, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(mode)
    paths(str(home)).prepare()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    home.chmod(mode)
    with pytest.raises(InstanceError, match="open to other users"):
        paths(str(home)).prepare()


@needs_root
def test_a_state_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY, NOBODY)
    with pytest.raises(InstanceError, match=f"belongs to user {NOBODY}"):
        paths(str(home)).prepare()


# --- listeners ---


async def test_a_control_plane_that_others_can_reach_does_not_start_without_a_token(
    instances: Instances,
) -> None:
    options = instances.options(admin_host="0.0.0.0")
    with pytest.raises(InstanceError, match="serve token rotate"):
        await instances.start(options)


async def test_a_client_that_waits_to_send_its_body_is_told_to_once_it_is_let_in(daemon: Instance) -> None:
    async def first_line(*headers: str) -> bytes:
        head = (
            "PUT /api/serve/applications/ HTTP/1.1",
            "Content-Length: 2",
            "Expect: 100-continue",
            *headers,
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.info.admin_port)
        try:
            writer.write("\r\n".join([*head, "", ""]).encode())
            with anyio.fail_after(PATIENCE_S):
                return await reader.readline()
        finally:
            writer.close()

    assert await first_line("Host: localhost") == b"HTTP/1.1 100 Continue\r\n"
    assert b" 403" in await first_line("Host: evil.example")
