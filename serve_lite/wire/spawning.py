"""What the daemon says to a template and to an importer, and what they answer.

A template is spoken to over a SOCK_SEQPACKET socket pair: one message is one packet of JSON, descriptors beside it.
An importer gets one request and gives one answer over a stream socket, each msgpack after its length in four
bytes. `controller/spawner.py` and `controller/importer.py` are one side, `replica/template.py` and
`replica/importing.py` the other.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from serve_lite.state.environment import Archive, Interpreter
from serve_lite.state.goal import BuildResult

#: A packet has to fit into a socket's buffer whole; whatever is longer starts by exec.
LONGEST_PACKET = 100_000

#: Length in front of an importer's request and answer.
LENGTH_BYTES = 4

ChildKind = Literal["replica", "importer", "adviser", "servicers", "preparer"]


class SpawnRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Start one child. Two descriptors come along: the one it works with and the one it prints to.

    A "replica" and an "adviser" work with their listening socket, an "importer", a "preparer" and one that reads
    "servicers" with the socket for request and answer.
    """

    serial: int
    kind: ChildKind
    name: str  #: replica id, or application
    title: str
    cwd: str = ""
    sys_path: tuple[str, ...] = ()
    env_vars: dict[str, str] = {}
    cpus: tuple[int, ...] = ()  #: to which it is bound; (): to none
    threads: int = (
        0  #: that numeric libraries should use unless a variable says otherwise; 0: as many as they like
    )
    cgroup: str = ""  #: folder of the one that it enters before anything else; "": it stays where it is


class Spawned(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="spawned"):
    """The child runs. Its pidfd comes along where the system has such a thing."""

    serial: int
    pid: int
    start_time: int


class NotSpawned(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="not_spawned"):
    """The template cannot start it; a fresh process may."""

    serial: int
    why: str


class Exited(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="exited"):
    """A child of the template has ended. `status` is what `os.waitpid` gave."""

    pid: int
    status: int


TemplateMessage = Spawned | NotSpawned | Exited


class BuildFailure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why an application could not be built, in the user's words."""

    type_name: str  #: of the user's exception; "" where the text says it all
    text: str
    traceback: str = ""  #: frames of user code only
    where: str = ""  #: `file:line` of the user code that failed, if any did


class BuildReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of the two."""

    result: BuildResult | None = None
    failure: BuildFailure | None = None


class ServicersRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Read what these servicer functions (or classes) offer."""

    paths: tuple[str, ...]


class GrpcMethod(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One method of a gRPC service."""

    name: str  #: full, "/package.Service/Method"
    servicer: str  #: import path of what knows its messages
    client_streaming: bool = False
    server_streaming: bool = False


class DescriptorFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One .proto file, for clients that ask what a service looks like."""

    name: str
    content: bytes  #: a serialized FileDescriptorProto
    symbols: tuple[str, ...] = ()  #: full names of what it defines


class GrpcServices(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the gRPC door serves. `methods` are in the order of the servicers."""

    methods: tuple[GrpcMethod, ...] = ()
    files: tuple[DescriptorFile, ...] = ()


class ServicersReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of the two."""

    services: GrpcServices | None = None
    failure: BuildFailure | None = None


class ArchiveLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How much an archive may be, so that a wrong one cannot fill the disk."""

    download_bytes: int = 4 * 1024**3
    unpacked_bytes: int = 16 * 1024**3
    files: int = 100_000
    timeout_s: float = 600.0  #: for the whole download


class PrepareRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Prepare one part of an environment: make it in `folder` under one name, and give it the other when it is done."""

    part: Archive | Interpreter
    folder: str
    making: str  #: the first name, with `MAKING` in it
    name: str
    limits: ArchiveLimits = ArchiveLimits()


class Prepared(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a part has become. Relative paths are relative to its folder. Kept there too, in `PREPARED_FILE`."""

    path: str = ""  #: folder of an archive's content
    python: str = ""  #: interpreter
    scripts: str = ""  #: folder of the programs of its packages
    package_folders: tuple[str, ...] = ()  #: absolute folders of packages to put behind its own


#: In the name of a folder that is not complete.
MAKING = ".making-"
#: Written last: a folder that has it is complete.
PREPARED_FILE = "prepared.json"


class PrepareReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of the two."""

    prepared: Prepared | None = None
    failure: str = ""  #: for the author of the `runtime_env`, without passwords
