"""Nothing that a port brings is unpickled, and the daemon neither unpickles nor imports user code.

An audit hook (PEP 578) in every process of an instance writes down what is unpickled and imported, while the doors
are sent whatever a client may send.
"""

from __future__ import annotations

import ast
import asyncio
import itertools
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
import websockets
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError

import serve_lite as serve
from serve_lite.admin.app import ENDPOINTS
from tests.instances import DEADLINE_S, Instance, Instances
from tests.proxy.corpus import FINE, MALFORMED
from tests.security import audited_app

PACKAGE = Path(serve.__file__).parent

SITE = """
import os, sys

def write(what):
    fd = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{{os.getpid()}} {{what}}\\n".encode())
    os.close(fd)

def hook(event, arguments):
    if event == "pickle.find_class":
        write(f"unpickles {{arguments[0]}}.{{arguments[1]}}")
    elif event == "exec" and "audited_app" in getattr(arguments[0], "co_filename", ""):
        write("imports audited_app")

write("is watched")
sys.addaudithook(hook)
"""

#: Each looks a class or function up when it is unpickled; the second one as an attack would.
PAYLOADS = (pickle.dumps(audited_app.Courier()), b"cos\nsystem\n(S'true'\ntR.", pickle.dumps(print, 5))

CONTENT_TYPES = (
    "application/x-pickle",
    "application/pickle",
    "application/python-pickle",
    "application/vnd.python.cloudpickle",
    "application/x-python-serialize",
    "application/octet-stream",
    "application/json",
    "",
)


class Raw(CodecBase):
    """gRPC messages as bytes."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> bytes:
        return data


class Watched:
    """An instance whose processes write down what they unpickle and import."""

    def __init__(self, instance: Instance, log: Path) -> None:
        self.instance, self._log = instance, log

    def lines(self) -> list[tuple[int, str]]:
        found = [line.split(" ", 1) for line in self._log.read_text().splitlines()]
        return [(int(pid), what) for pid, what in found]

    def unpickled(self) -> Counter[tuple[int, str]]:
        return Counter(line for line in self.lines() if line[1].startswith("unpickles"))


@pytest.fixture
async def watched(instances: Instances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    site, log = tmp_path / "site", tmp_path / "audit.log"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE.format(log=str(log)))
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    here = str(Path(__file__).parent)
    options = instances.options(
        grpc_port=0, grpc_servicer_functions=("audited_app:add_to_server",), grpc_sys_path=(here,)
    )
    instance = await instances.start(options)
    monkeypatch.setenv("SERVE_LITE_HOME", instance.home)
    watched = Watched(instance, log)
    await instance.deploy("audited_app:app", folder=here)
    await instance.deploy("audited_app:socket_app", name="sockets", route_prefix="/ws", folder=here)
    return watched


async def send_raw(port: int, data: bytes) -> None:
    """Send bytes that may be no request; return once the server has answered and closed, or has nothing to say."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        writer.write_eof()
        with anyio.fail_after(DEADLINE_S):
            while await reader.read(65536):
                pass
    except ConnectionError:
        pass  # it was cut off in the middle of what it had sent
    finally:
        writer.close()


async def try_http(instance: Instance) -> None:
    for payload, kind in itertools.product(PAYLOADS, CONTENT_TYPES):
        headers = {"x-serialization": "cloudpickle", "content-encoding": "identity"}
        headers |= {"content-type": kind} if kind else {}
        answer = await instance.http.post("/take", content=payload, headers=headers)
        assert (answer.status_code, answer.content) == (200, b"%d" % len(payload))
    assert (await instance.http.post("/boom", content=PAYLOADS[0])).status_code == 500
    for case in (*MALFORMED.values(), *(fine.data for fine in FINE.values())):
        await send_raw(instance.info.http_port, case)
    url = f"ws://127.0.0.1:{instance.info.http_port}/ws/socket"
    for payload in PAYLOADS:
        async with websockets.connect(url) as socket:
            await socket.send(payload)
            assert await socket.recv() == payload


async def try_rest(instance: Instance) -> None:
    for endpoint, kind, payload in itertools.product(ENDPOINTS, CONTENT_TYPES, PAYLOADS):
        path = endpoint.path.replace("{name}", "default").replace("{deployment}", "Audited")
        method = endpoint.method if endpoint.method in ("GET", "PUT", "POST", "PATCH") else "POST"
        # A body that a route has no use for ends its connection, which the client may only learn by using it again.
        headers = {"connection": "close", **({"content-type": kind} if kind else {})}
        answer = await instance.admin.request(method, path, content=payload, headers=headers)
        assert answer.status_code < 500, (endpoint.id, kind)
        if endpoint.body is not None:
            assert 400 <= answer.status_code < 500, (endpoint.id, kind)
    for case in (*MALFORMED.values(), *(fine.data for fine in FINE.values())):
        await send_raw(instance.info.admin_port, case)


async def try_grpc(instance: Instance) -> None:
    async with Channel("127.0.0.1", instance.info.grpc_port, codec=Raw()) as channel:
        say = UnaryUnaryMethod[bytes, bytes](channel, "/audit.Audit/Say", bytes, bytes)
        for payload in PAYLOADS:
            metadata = {"application": "default", "payload-bin": payload}
            message = b"\x0a%c%b" % (len(payload), payload)  # a protobuf with the payload as its field 1
            assert await say(message, timeout=DEADLINE_S, metadata=metadata) == message
            with pytest.raises(GRPCError):
                await say(payload, timeout=DEADLINE_S, metadata=metadata)


async def test_nothing_that_comes_by_a_port_is_unpickled_anywhere(watched: Watched) -> None:
    instance = watched.instance
    daemon = instance.info.pid
    before = watched.unpickled()
    await try_http(instance)
    await try_rest(instance)
    await try_grpc(instance)
    assert (await instance.http.get("/")).status_code == 200
    assert watched.unpickled() == before  # in no process
    assert daemon == await instance.daemon_pid()
    by_daemon = [what for pid, what in watched.lines() if pid == daemon]
    assert by_daemon == ["is watched"]

    # The hook does hear of what comes through a handle, and of user code.
    handle = serve.get_app_handle("default")
    assert await handle.take.remote(audited_app.Courier()) == "Courier"
    news = watched.unpickled() - before
    (replica,) = instance.pids("replica default")
    assert any(pid == replica and "Courier" in what for pid, what in news)
    assert daemon not in {pid for pid, _ in news}
    assert any(what == "imports audited_app" for _, what in watched.lines())


# --- where it is written ---

#: What makes objects of bytes, by module.
UNPICKLERS = {
    "pickle": {"load", "loads", "Unpickler"},
    "_pickle": {"load", "loads", "Unpickler"},
    "cloudpickle": {"load", "loads"},
    "marshal": {"load", "loads"},
    "shelve": {"open"},
    "dill": {"load", "loads"},
    "joblib": {"load"},
    "multiprocessing.connection": {"Client", "Listener"},
}


def unpickling_in(source: str) -> list[str]:
    """Return the names in a module's text that make objects of bytes."""
    names, found = {}, []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update({alias.asname or alias.name: alias.name for alias in node.names})
        elif isinstance(node, ast.ImportFrom) and node.module in UNPICKLERS:
            found += [f"{node.module}.{a.name}" for a in node.names if a.name in UNPICKLERS[node.module]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = names.get(node.value.id, "")
            if node.attr in UNPICKLERS.get(module, ()):
                found.append(f"{module}.{node.attr}")
    return found


def test_one_module_unpickles() -> None:
    packages = (PACKAGE, PACKAGE.parent / "cli" / "serve_lite_cli")
    files = [file for package in packages for file in package.rglob("*.py")]
    assert len(files) > 250
    found = {
        str(file.relative_to(PACKAGE)): unpickling_in(file.read_text())
        for file in files
        if PACKAGE in file.parents
    }
    found |= {str(file): unpickling_in(file.read_text()) for file in files if PACKAGE not in file.parents}
    assert {name: names for name, names in found.items() if names} == {"wire/codec.py": ["pickle.loads"]}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(b'')",
        "import pickle as p\np.Unpickler(f).load()",
        "from pickle import loads",
        "def f():\n    import cloudpickle\n    return cloudpickle.load(x)",
        "import marshal\nread = marshal.loads",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert unpickling_in(source)
