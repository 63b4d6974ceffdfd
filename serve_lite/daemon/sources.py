"""Who has the last word about an option of an instance that is started.

Highest first: a flag or an argument of `serve.start`; the environment; a config file that `serve run` was given; a
settings file; the default. Each value is remembered with where it came from. Only here, at an instance's start, are
variables and settings file looked at; the running instance keeps what came of it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from serve_lite.checks import invalid
from serve_lite.config import ProxyLocation
from serve_lite.daemon.home import HOME_VARIABLES, home_from_environment
from serve_lite.daemon.machine_options import MACHINE, machine_options
from serve_lite.daemon.options import InstanceOptions
from serve_lite.daemon.settings import BY_NAME, FLAGS, LISTS, LOGGING, OPTIONS, WHOLE, Option, Reader
from serve_lite.exceptions import InvalidConfigError

#: Names the settings file, if it is not `settings.yaml` in the state directory.
SETTINGS_VARIABLE = "SERVE_LITE_SETTINGS"
SETTINGS_NAME = "settings.yaml"

DEFAULT = "default"


class Layer(msgspec.Struct, frozen=True):
    """What one source says."""

    values: Mapping[str, Any]  #: by the option's `id`
    origins: Mapping[str, str]


NOTHING = Layer({}, {})


def resolve(
    home: str = "",
    *,
    home_origin: str = "argument",
    given: Layer = NOTHING,
    document: Layer = NOTHING,
    settings: str = "",
    folders: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> InstanceOptions:
    """Return the options of an instance that is about to be started, each from the highest source that has it.

    gRPC is served on the host that HTTP has, and not at all where HTTP is off.

    Args:
        home: its state directory; "": the environment's or the user's default.
        given: flags or arguments, checked already.
        document: what a config file says, checked already.
        settings: the settings file; "": the environment's, or the one in the state directory if there is one.
        folders: where gRPC's servicer functions are looked for first.

    Raises:
        InvalidConfigError: a variable or the settings file is wrong; says which, and where.
    """
    home, home_origin = (
        (os.path.abspath(os.path.expanduser(home)), home_origin) if home else _home(environment)
    )
    file, file_origin = _settings_file(home, settings, environment)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in (_from_file(file), document, from_environment(environment), given):
        values |= layer.values
        origins |= layer.origins
    origins |= {"home": home_origin, "settings_file": file_origin}
    if file:
        folders = (*folders, os.path.dirname(file))
    _complete(values, origins, folders)
    logging = {
        key.partition(".")[2]: values.pop(key) for key in list(values) if key.startswith(f"{LOGGING}.")
    }
    if logging:
        values[LOGGING] = msgspec.to_builtins(logging)
    # Started by hand with options in JSON, it may be there as a whole.
    machine = {option: values.pop(option) for option in MACHINE if option in values}
    values.setdefault("machine", machine_options(machine, environment))
    options = InstanceOptions(home=home, settings_file=file, origins=origins, **values)
    _check_whole(options)
    return options


def from_environment(environment: Mapping[str, str]) -> Layer:
    """Return what variables say. An empty one says nothing.

    Raises:
        InvalidConfigError: a value is wrong; names the variable.
    """
    values, origins = {}, {}
    for option in OPTIONS:
        readers: tuple[tuple[str, Reader], ...] = ((option.variable, str), *option.foreign)
        for variable, read in readers:
            text = environment.get(variable, "")
            meant = read(text) if text else None
            if meant is None:
                continue
            values[option.id] = _checked(option, meant, variable)
            origins[option.id] = f"environment {variable}"
            break
    return Layer(values, origins)


def layer_of(section: str, options: Mapping[str, Any], origin: str) -> Layer:
    """Return what one section of a document or of arguments says; `origin` has `{}` for the option's name.

    Raises:
        InvalidConfigError: a value is wrong.
    """
    found = {
        key: BY_NAME[f"{section}.{key}" if section else key] for key in options if _is_known(section, key)
    }
    return Layer(
        {
            option.id: option.placed(option.check(options[key], option.name, True), os.getcwd())
            for key, option in found.items()
        },
        {option.id: origin.format(option.name) for option in found.values()},
    )


def join(*layers: Layer) -> Layer:
    """Return layers as one; later ones win."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        values |= layer.values
        origins |= layer.origins
    return Layer(values, origins)


# --- sources -------------------------------------------------------------------------------------


def _home(environment: Mapping[str, str]) -> tuple[str, str]:
    variable = next((name for name in HOME_VARIABLES if environment.get(name)), "")
    return home_from_environment(), f"environment {variable}" if variable else DEFAULT


def _settings_file(home: str, named: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the settings file and who named it; "" if there is none to be read."""
    origin = "flag --settings"
    if not named:
        named, origin = environment.get(SETTINGS_VARIABLE, ""), f"environment {SETTINGS_VARIABLE}"
    if not named:
        usual = os.path.join(home, SETTINGS_NAME)
        return (usual, "found in the state directory") if os.path.exists(usual) else ("", DEFAULT)
    path = os.path.abspath(os.path.expanduser(named))
    if not os.path.isfile(path):
        raise InvalidConfigError(f"There is no settings file {path!r} ({origin}).")
    return path, origin


def _from_file(path: str) -> Layer:
    if not path:
        return NOTHING
    from serve_lite.daemon.settings_file import read_settings  # loads a YAML reader

    return read_settings(path)


def _checked(option: Option, text: str, variable: str) -> Any:
    """Return the value that a variable's text means."""
    value: Any = text
    if option.name in LISTS:
        value = [part.strip() for part in text.split(",") if part.strip()]
    elif option.name in FLAGS:
        value = {"1": True, "0": False}.get(text, text)
    # Whole numbers are spelt with digits only: " 80" and "8e1" are slips.
    lax = option.name not in WHOLE or (text.isascii() and text.isdigit())
    return option.placed(option.check(value, variable, lax), os.getcwd())


def _is_known(section: str, key: str) -> bool:
    return (f"{section}.{key}" if section else key) in BY_NAME


# --- the whole -----------------------------------------------------------------------------------


def _complete(values: dict[str, Any], origins: dict[str, str], folders: Sequence[str]) -> None:
    """Fill in what follows from other options."""
    if values.get("proxy_location") == ProxyLocation.Disabled:
        values["http_host"] = None
        origins["http_host"] = origins["proxy_location"]
    elif values.get("http_host", "") is None:
        values["proxy_location"] = ProxyLocation.Disabled.value
        origins["proxy_location"] = origins["http_host"]
    functions = tuple(values.get("grpc_servicer_functions", ()))
    if functions and values.get("http_host", "") is None:
        functions = ()
        origins["grpc_servicer_functions"] = f"off, as HTTP is: {origins['http_host']}"
    values["grpc_servicer_functions"] = functions
    if functions:
        values.setdefault("grpc_sys_path", tuple(dict.fromkeys((*folders, os.getcwd()))))
        values["grpc_host"] = values.get("http_host", _PLAIN.http_host)


def _check_whole(options: InstanceOptions) -> None:
    """Check what concerns several options, or the disk."""
    if (options.ssl_keyfile is None) != (options.ssl_certfile is None):
        given = "ssl_keyfile" if options.ssl_keyfile else "ssl_certfile"
        raise invalid(
            "http_options.ssl_keyfile",
            "http_options.ssl_keyfile and http_options.ssl_certfile must be given together; "
            f"only {given} is ({options.origins.get(given, DEFAULT)}).",
        )
    if options.http3 and (why := _no_http3(options)):
        raise invalid("http_options.http3", f"http_options.http3 cannot be served: {why}.")
    for field in ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs"):
        path = getattr(options, field)
        if path is not None and not os.access(path, os.R_OK):
            raise invalid(
                f"http_options.{field}",
                f"http_options.{field} is {path!r} ({options.origins.get(field, DEFAULT)}); there is no such file "
                "that could be read.",
            )


def _no_http3(options: InstanceOptions) -> str:
    """Return why these options do not go with HTTP/3; "" if they do."""
    if options.ssl_certfile is None:
        return "it is always encrypted, so ssl_certfile and ssl_keyfile must be given"
    if options.ssl_ca_certs is not None:
        return "it cannot ask clients for certificates, so ssl_ca_certs must not be given"
    if options.proxy_processes:
        return "one process must have all of its connections, so proxy_processes must be 0"
    if importlib.util.find_spec("aioquic") is None:
        return "the package aioquic is missing; install it with `pip install 'serve-lite[http3]'`"
    return ""


_PLAIN = InstanceOptions()
