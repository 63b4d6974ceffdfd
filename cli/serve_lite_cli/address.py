"""Which instance a command means: a URL, a state directory, or the user's own instance."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from serve_lite.daemon.home import HOME_VARIABLES, TOKEN_VARIABLE, home_from_environment, paths
from serve_lite.exceptions import InstanceError, InvalidConfigError

if TYPE_CHECKING:
    from serve_lite_cli.rest import RestClient

#: Looked at in this order when there is no --address. The last two are what Ray's own command line reads.
ENVIRONMENT = ("SERVE_LITE_ADDRESS", "RAY_AGENT_ADDRESS", "RAY_DASHBOARD_ADDRESS")

#: What Ray calls "the one that runs here".
HERE = ("", "auto", "local")

#: Looked at last. In Ray's world it names a cluster or its REST API.
CLUSTER_ENVIRONMENT = "RAY_ADDRESS"


def control_plane(address: str) -> RestClient:
    """Return the control plane that `address`, the environment or the user's own instance stands for.

    It bears the token of the instance's state directory, and to a URL the one that the environment names.

    Raises:
        InvalidConfigError: the address is neither a URL nor a directory.
        InstanceError: no instance runs in that directory, or the token there is open to others.
    """
    from serve_lite_cli.rest import RestClient  # an HTTP client, which starting an instance has no use for

    address = given_address(address)
    if "://" in address:
        return RestClient(checked_url(address), token_from_environment())
    home = state_directory(address)
    return RestClient(local_url(home), token_of(home))


def token_from_environment() -> str:
    """Return the token to bear to an instance that a URL names; "" for none."""
    return os.environ.get(TOKEN_VARIABLE, "").strip()


def token_of(home: str) -> str:
    """Return the token of the instance in `home`; "" if it has none, as those of older releases.

    Raises:
        InstanceError: others can read it.
    """
    from serve_lite.daemon.token import read_token

    try:
        return read_token(paths(home).token)
    except FileNotFoundError:
        return ""


def given_address(option: str) -> str:
    """Return the address that was given: as an option, else in the environment; "" if in neither."""
    named = next((os.environ[name] for name in ENVIRONMENT if os.environ.get(name)), "")
    return option or named or cluster_address()


def cluster_address() -> str:
    """Return RAY_ADDRESS where it can mean an instance; "" where it names a cluster of Ray, which is said."""
    named = os.environ.get(CLUSTER_ENVIRONMENT, "")
    if named in HERE or named.startswith(("http://", "https://", "/", "~", ".")):
        return named
    print(
        f"Warning: {CLUSTER_ENVIRONMENT} is {named!r}, which names a cluster of Ray; it is passed over. "
        f"{ENVIRONMENT[0]} names an instance of serve-lite.",
        file=sys.stderr,
        flush=True,
    )
    return ""


def local_home(address: str) -> str:
    """Return the state directory of an instance on this machine; for commands that start or join one.

    Raises:
        InvalidConfigError: `address` is a URL.
    """
    if "://" in address:
        raise InvalidConfigError(
            f"This command works with an instance of this machine, and {address!r} is a URL. "
            "Give --address a state directory, or use `serve deploy --address URL`."
        )
    named = address or os.environ.get(ENVIRONMENT[0], "") or cluster_address()
    return state_directory("" if "://" in named else named)


def home_origin(address: str) -> str:
    """Return who chose what `local_home` returns, as `serve config --effective` tells it."""
    if address not in HERE:
        return "flag --address"
    named = os.environ.get(ENVIRONMENT[0], "")
    if not address and named not in HERE and "://" not in named:
        return f"environment {ENVIRONMENT[0]}"
    variable = next((name for name in HOME_VARIABLES if os.environ.get(name)), "")
    return f"environment {variable}" if variable else "default"


def state_directory(address: str) -> str:
    """Return the state directory that an address without `://` names."""
    if address in HERE:
        return home_from_environment()
    path = os.path.abspath(os.path.expanduser(address))
    if not address.startswith(("/", "~", ".")) and not os.path.isdir(path):
        raise InvalidConfigError(
            f"The address {address!r} is neither a URL, like http://localhost:52365, nor a state directory."
        )
    return path


def local_url(home: str) -> str:
    """Return the URL of the control plane of the instance in `home`."""
    from serve_lite.engines.local import find_instance  # brings an event loop, which a launch has no use for

    info = find_instance(home)
    if info is None:
        raise InstanceError(
            f"No instance is running in {home}. Start one with `serve start`, or name another with --address."
        )
    return url(info.admin_host, info.admin_port)


def url(host: str, port: int, path: str = "") -> str:
    """Return an URL that a browser on this machine can open."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"http://{host}:{port}{path}"


def checked_url(address: str) -> str:
    """Return the URL without a slash at its end.

    Raises:
        InvalidConfigError: it is not http or https.
    """
    scheme = address.split("://", 1)[0]
    if scheme not in ("http", "https"):
        raise InvalidConfigError(
            f"The address {address!r} starts with {scheme}://, and should start with http:// or https://."
        )
    return address.rstrip("/")
