"""A short way from `serve run ...` to what it asks for, without typer.

Loading typer and having it read a command line takes longer than an instance needs to bind its sockets, and
the time from `serve run` to the first answer is waited for many times a day. So plain uses are read here.
Everything else, above all everything wrong, is left to typer, which knows how to explain. `RunOptions` is the one
list of the command's options; a test holds typer's against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec


class RunOptions(msgspec.Struct, kw_only=True):
    """What `serve run` was asked for. A field `app_dir` is the option `--app-dir`."""

    config_or_import_path: str
    arguments: list[str] = []
    runtime_env: str = ""
    runtime_env_json: str = ""
    working_dir: str = ""
    app_dir: str = "."
    address: str = ""
    host: str | None = None
    port: int | None = None
    admin_port: int | None = None
    settings: str = ""
    blocking: bool = True
    gradio: bool = False
    reload: bool = False
    route_prefix: str = "/"
    name: str = "default"


#: Options that are not a field's name with dashes.
OTHER_NAMES = {
    "-d": "app_dir",
    "-a": "address",
    "-h": "host",
    "--http-host": "host",
    "-p": "port",
    "--http-port": "port",
    "--non-blocking": "blocking",
    "-r": "reload",
}
FLAGS = {"--blocking": True, "--non-blocking": False, "--reload": True, "-r": True}
POSITIONAL = ("config_or_import_path", "arguments")
HIGHEST_PORT = 65535


def read_command_line(words: Sequence[str]) -> RunOptions | None:
    """Return what the words after `serve run` ask for; None if this is not one of the plain cases."""
    given: dict[str, Any] = {}
    positional: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            positional.append(word)
            continue
        option, equals, value = word.partition("=")
        field = field_of(option)
        if field is None or (option in FLAGS and equals):
            return None
        if option in FLAGS:
            given[field] = FLAGS[option]
        elif equals and option.startswith("--"):
            given[field] = value
        elif not equals and (following := next(rest, None)) is not None and not following.startswith("-"):
            given[field] = following
        else:
            return None
    if not positional:
        return None
    try:
        options = msgspec.convert(
            {**given, "config_or_import_path": positional[0], "arguments": positional[1:]},
            RunOptions,
            strict=False,
        )
    except msgspec.ValidationError:
        return None
    if options.reload and not options.blocking:
        return None
    ports = [port for port in (options.port, options.admin_port) if port is not None]
    return options if all(0 <= port <= HIGHEST_PORT for port in ports) else None


def field_of(option: str) -> str | None:
    """Return the field that an option sets; None if it is none of the plain ones."""
    name = OTHER_NAMES.get(option) or option.removeprefix("--").replace("-", "_")
    is_known = name in RunOptions.__struct_fields__ and (option.startswith("--") or option in OTHER_NAMES)
    return name if is_known and name not in (*POSITIONAL, "gradio") else None
