"""`serve keys`: API keys for clients of applications, made, listed and taken away."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import anyio
import typer

from serve_lite.exceptions import InvalidConfigError
from serve_lite_cli.address import local_home
from serve_lite_cli.flags import AddressOption, JsonOption
from serve_lite_cli.output import print_json, print_table

_UNITS = {"m": 60, "h": 3600, "d": 86400}
_CONTROL_S = 30.0


class Action(StrEnum):
    """What to do."""

    add = "add"
    list = "list"
    remove = "remove"


class Told(NamedTuple):
    """What a running instance says of its keys."""

    path: str
    keys: int
    problem: str
    is_asked_for: bool


def command(
    action: Annotated[Action, typer.Argument(metavar="ACTION", help="add, list or remove.")],
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Whose key it is; to add or remove one.")
    ] = "",
    app: Annotated[
        list[str] | None,
        typer.Option(
            "--app", metavar="NAME", help="An application that it opens; may be repeated. Default: all."
        ),
    ] = None,
    route: Annotated[
        list[str] | None,
        typer.Option(
            "--route",
            metavar="/PATH",
            help="A path at and below which it is good (of gRPC: /package.Service); may be repeated. Default: all.",
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            "--rate",
            metavar="RATE",
            help="Requests that it allows: 100/s, 600/min, 5000/h or '10/s burst 50'.",
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires",
            metavar="WHEN",
            help="When it ends: 90d, 12h, 30m from now, or 2030-01-31 (UTC). Default: never.",
        ),
    ] = None,
    file: Annotated[
        str,
        typer.Option(
            "--file",
            metavar="FILE",
            help="File of keys of an instance that is not up. [default: the one that the instance uses]",
        ),
    ] = "",
    address: AddressOption = "",
    as_json: JsonOption = False,
) -> None:
    """Make, list or remove API keys. Applications with `require_api_key: true` need one of each request.

    A new key is printed once, on stdout, and kept nowhere: the file has a hash of it. A running instance heeds a change
    at once. To replace a key, add one under another name, change the client, remove the old one.

    With --json: {"name": NAME, "key": KEY, "file": FILE} to add; {"name": NAME, "file": FILE} to remove; a list
    of {"name", "id", "apps", "routes", "rate", "expires", "created"} to list.
    """
    options = {"--app": app, "--route": route, "--rate": rate, "--expires": expires}
    given = [flag for flag, value in options.items() if value]
    if action is not Action.add and given:
        raise typer.BadParameter(f"{given[0]} is for `serve keys add`.")
    if (action is Action.list) == bool(name):
        raise typer.BadParameter(f"`serve keys {action}` {'takes no' if name else 'needs a'} NAME.")
    home = local_home(address)
    path, is_up = _file_of(home, file)
    match action:
        case Action.add:
            _add(path, name, tuple(app or ()), tuple(route or ()), rate, expires, as_json=as_json)
        case Action.remove:
            _remove(path, name, as_json=as_json)
        case Action.list:
            _list(path, as_json=as_json)
    if is_up:
        _warn(anyio.run(_reload, home), path, has_added=action is Action.add)


def _add(
    path: str,
    name: str,
    apps: tuple[str, ...],
    routes: tuple[str, ...],
    rate: str | None,
    expires: str | None,
    *,
    as_json: bool,
) -> None:
    from serve_lite.proxy.key_file import add_key
    from serve_lite.proxy.keys import new_key

    key, shown = new_key(
        name, apps=apps, routes=routes, rate=rate, expires=None if expires is None else _moment(expires)
    )
    add_key(path, key)
    if as_json:
        print_json({"name": name, "key": shown, "file": path})
        return
    print(shown, flush=True)
    print(f"This is the only time that the key {name!r} is shown; {path} has a hash of it.", file=sys.stderr)


def _remove(path: str, name: str, *, as_json: bool) -> None:
    from serve_lite.proxy.key_file import remove_key

    remove_key(path, name)
    if as_json:
        print_json({"name": name, "file": path})
    else:
        print(f"Removed the API key {name!r} from {path}.")


def _list(path: str, *, as_json: bool) -> None:
    from serve_lite.proxy.key_file import read_keys
    from serve_lite.proxy.keys import expiry

    keys = read_keys(path)
    if as_json:
        print_json([_shown(key) for key in keys])
        return
    if not keys:
        print(f"There are no API keys in {path}.")
        return
    rows = [
        (
            key.name,
            key.id,
            ", ".join(key.apps) or "all",
            ", ".join(key.routes) or "all",
            key.rate or "-",
            "never"
            if key.expires is None
            else key.expires + (" (over)" if expiry(key) <= time.time() else ""),
        )
        for key in keys
    ]
    print_table(("NAME", "ID", "APPS", "ROUTES", "RATE", "EXPIRES"), rows)


def _shown(key: Any) -> dict[str, Any]:
    fields = ("name", "id", "apps", "routes", "rate", "expires", "created")
    shown = {field: getattr(key, field) for field in fields}
    return {**shown, "apps": list(key.apps), "routes": list(key.routes)}


def _moment(text: str) -> str:
    """Return a moment as the file has it.

    Raises:
        InvalidConfigError: it is none, or is over.
    """
    now = datetime.now(UTC)
    number, unit = text[:-1], text[-1:]
    try:
        if unit in _UNITS and number.isascii() and number.isdigit():
            end = now + timedelta(seconds=int(number) * _UNITS[unit])
        else:
            end = datetime.fromisoformat(text)
            end = end if end.tzinfo is not None else end.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidConfigError(
            f"--expires is {text!r}; it must be a time from now (90d, 12h, 30m) or a date (2030-01-31, "
            "2030-01-31T12:00:00Z)."
        ) from None
    if end <= now:
        raise InvalidConfigError(f"--expires is {text!r}, which is over.")
    return end.isoformat(timespec="seconds")


# --- which file, and who is told ------------------------------------------------------------------


def _file_of(home: str, named: str) -> tuple[str, bool]:
    """Return the file of keys, and whether a running instance reads it.

    Raises:
        InvalidConfigError: a settings file or a variable is wrong, or a running instance reads another file.
    """
    import os

    told = anyio.run(_reload, home)
    if told is not None:
        if named and os.path.abspath(named) != told.path:
            raise InvalidConfigError(
                f"The instance in {home} is up and reads its API keys from {told.path}, not from {named}. "
                "Leave --file out."
            )
        return told.path, True
    if named:
        return os.path.abspath(os.path.expanduser(named)), False
    from serve_lite.daemon.sources import resolve
    from serve_lite.proxy.key_file import FILE_NAME

    options = resolve(home)
    path = options.api_keys_file or os.path.join(options.home, FILE_NAME)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    return path, False


async def _reload(home: str) -> Told | None:
    """Have the instance read its keys, and return what it says; None if none is up."""
    from serve_lite.engines.local import connect_instance
    from serve_lite.wire.messages import Empty, ReloadKeysReply

    connection = await connect_instance(home)
    if connection is None:
        return None
    try:
        told = await connection.control("reload_keys", Empty(), ReloadKeysReply, timeout_s=_CONTROL_S)
        return Told(told.path, told.keys, told.problem, told.is_asked_for)
    finally:
        connection.close()
        await connection.wait_closed()


def _warn(told: Told | None, path: str, *, has_added: bool) -> None:
    if told is not None and told.problem:
        print(f"Warning: the running instance keeps the keys that it had: {told.problem}", file=sys.stderr)
    elif told is not None and has_added and not told.is_asked_for:
        print(
            "Warning: no application asks for API keys yet; say `require_api_key: true` in an application, or in "
            "http_options for all.",
            file=sys.stderr,
        )
