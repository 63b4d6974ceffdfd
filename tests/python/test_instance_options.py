"""What an instance is started with: who has the last word about each option, and what is refused where."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serve_lite import api
from serve_lite.config import HTTPOptions, LoggingConfig, gRPCOptions
from serve_lite.daemon.effective import HIDDEN, differences, shown
from serve_lite.daemon.home import SECRET_VARIABLES
from serve_lite.daemon.options import InstanceOptions, options_from
from serve_lite.daemon.settings import BY_NAME, FLAGS, LISTS, OPTIONS, Option
from serve_lite.daemon.sources import NOTHING, Layer, from_environment, layer_of, resolve
from serve_lite.document_schema import document_schema
from serve_lite.exceptions import InvalidConfigError
from serve_lite.schema import parse_deploy_document
from serve_lite_cli.listeners import instance_options, layer_of_document, layer_of_flags

#: Two values of each option, as a file has them; neither is the default.
TWO: dict[str, tuple[Any, Any]] = {
    "proxy_location": ("HeadOnly", "Disabled"),
    "http_options.host": ("127.0.0.8", "127.0.0.9"),
    "http_options.port": (8001, 0),
    "http_options.root_path": ("/a", "/b"),
    "http_options.request_timeout_s": (1.5, 2.5),
    "http_options.keep_alive_timeout_s": (3.0, 4.0),
    "http_options.ssl_keyfile": ("/dev/null", "/dev/zero"),
    "http_options.ssl_certfile": ("/dev/null", "/dev/zero"),
    "http_options.ssl_keyfile_password": ("one", "two"),
    "http_options.ssl_ca_certs": ("/dev/null", "/dev/zero"),
    "http_options.server": ("hypercorn", "native"),
    "http_options.first_byte_timeout_s": (1.0, 2.0),
    "http_options.idle_timeout_s": (1.0, 2.0),
    "http_options.read_timeout_s": (1.0, 2.0),
    "http_options.write_timeout_s": (1.0, 2.0),
    "http_options.max_connections": (10, 20),
    "http_options.max_headers": (10, 20),
    "http_options.max_header_bytes": (4096, 8192),
    "http_options.max_body_bytes": (10, 0),
    "http_options.http3": (True, False),
    "http_options.forwarded_allow_ips": (["10.0.0.0/8", "::1/128"], ["*"]),
    "http_options.require_api_key": (True, False),
    "http_options.api_keys_file": ("/tmp/keys-a", "/tmp/keys-b"),
    "http_options.access_log": ("stdout", "/tmp/access.log"),
    "grpc_options.port": (9001, 0),
    "grpc_options.grpc_servicer_functions": (["a:add", "b:add"], ["c:add"]),
    "grpc_options.request_timeout_s": (1.0, 2.0),
    "grpc_options.enable_reflection": (False, True),
    "grpc_options.max_receive_message_bytes": (1000, 0),
    "grpc_options.max_send_message_bytes": (1000, 0),
    "grpc_options.max_connections": (10, 20),
    "admin_host": ("127.0.0.2", "::1"),
    "admin_port": (52366, 0),
    "proxy_processes": (2, 3),
    "orphan_grace_s": (1.0, 0.0),
    "backlog": (16, 32),
    "num_cpus": (2.5, 4.0),
    "num_gpus": (2, 0),
    "memory_bytes": (1e9, 2e9),
    "resources": ({"slot": 2.0}, {"license": 0.5, "scanner": 1.0}),
    "memory_limits": ("watched", "kernel"),
    "log_level": ("DEBUG", "WARNING"),
    "logging_config.encoding": ("JSON", "TEXT"),
    "logging_config.log_level": ("DEBUG", "ERROR"),
    "logging_config.logs_dir": ("/tmp/a", "/tmp/b"),
    "logging_config.enable_access_log": (False, True),
    "logging_config.additional_log_standard_attrs": (["lineno"], ["thread", "module"]),
}
#: Of a pair, each needs the other.
COMPANIONS = {
    "http_options.ssl_keyfile": ("http_options.ssl_certfile",),
    "http_options.ssl_certfile": ("http_options.ssl_keyfile",),
    "http_options.http3": ("http_options.ssl_certfile", "http_options.ssl_keyfile"),
}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the developer's counts, nor their instance."""
    names = {
        name for option in OPTIONS for name in (option.variable, *(name for name, _ in option.foreign))
    } | {"SERVE_LITE_SETTINGS", "XDG_STATE_HOME"}
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SERVE_LITE_HOME", str(tmp_path / "home"))


def as_text(option: Option, value: Any) -> str:
    """Return a value as a variable has it."""
    if option.name in LISTS:
        return ",".join(value)
    if isinstance(value, dict):
        return json.dumps(value)
    return str(value).lower() if option.name in FLAGS else str(value)


def as_file(option: Option, value: Any) -> dict[str, Any]:
    return {option.section: {option.key: value}} if option.section else {option.key: value}


def write_settings(document: Any, name: str = "settings.yaml") -> str:
    home = Path(os.environ["SERVE_LITE_HOME"])
    home.mkdir(exist_ok=True)
    (home / name).write_text(document if isinstance(document, str) else json.dumps(document))
    return str(home / name)


class Sources:
    """Says something in one of the places, by the place's name; the strongest first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.flags, self.document = NOTHING, dict[str, Any]()

    def say(self, place: str, option: Option, value: Any) -> None:
        match place:
            case "flag":
                self.flags = layer_of_flags({option.name: ("--flag", value)})
            case "environment":
                self._monkeypatch.setenv(option.variable, as_text(option, value))
            case "document":
                self.document = {"applications": []} | as_file(option, value)
            case "file":
                write_settings(as_file(option, value))

    def resolve(self, **also: Any) -> InstanceOptions:
        document = layer_of_document(self.document, "config.yaml")
        extra = {BY_NAME[name].id: value for name, value in also.items()}
        given = Layer({**extra, **self.flags.values}, self.flags.origins)
        return resolve(given=given, document=document)


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> Sources:
    return Sources(monkeypatch)


PLACES = ("flag", "environment", "document", "file")
IN_DOCUMENTS = [
    o for o in OPTIONS if o.section in ("http_options", "grpc_options") or o.name == "proxy_location"
]
PAIRS = [
    (option, strong, weak)
    for option in OPTIONS
    for strong, weak in itertools.combinations(PLACES, 2)
    if option in IN_DOCUMENTS or "document" not in (strong, weak)
]
ORIGINS = {
    "flag": "flag --flag",
    "environment": "environment SERVE_LITE_",
    "document": "file config.yaml, ",
    "file": "file /",
}


def test_two_values_are_known_of_every_option() -> None:
    assert list(TWO) == [option.name for option in OPTIONS]


@pytest.mark.parametrize(
    ("option", "strong", "weak"), PAIRS, ids=[f"{o.name}: {s} over {w}" for o, s, w in PAIRS]
)
def test_the_stronger_source_wins_and_is_named(
    sources: Sources, option: Option, strong: str, weak: str
) -> None:
    for wanted, other in itertools.permutations(TWO[option.name]):
        sources.say(weak, option, other)
        sources.say(strong, option, wanted)
        companions = COMPANIONS.get(option.name, ())
        options = sources.resolve(**dict.fromkeys(companions, "/dev/null"))
        assert option.value_in(options) == wanted
        assert options.origins[option.id].startswith(ORIGINS[strong])


@pytest.mark.parametrize("option", OPTIONS, ids=[o.name for o in OPTIONS])
def test_without_a_word_it_is_the_default(option: Option) -> None:
    options = resolve()
    assert option.value_in(options) == option.value_in(InstanceOptions())
    assert option.id not in options.origins
    row = next(row for row in shown(options) if row.name == option.name)
    assert row.origin == "default"


def test_the_well_known_ports_are_the_default() -> None:
    assert (resolve().http_port, resolve().admin_port) == (8000, 52365)


def test_variables_have_regular_names() -> None:
    names = [option.variable for option in OPTIONS]
    assert len(set(names)) == len(names)
    for option in OPTIONS:
        section = {"http_options": "HTTP_", "grpc_options": "GRPC_", "logging_config": "LOGGING_"}
        expected = f"SERVE_LITE_{section.get(option.section, '')}{option.key.upper()}"
        assert option.variable == expected.replace("GRPC_GRPC_", "GRPC_")


def test_no_secret_is_left_in_the_environment() -> None:
    assert {option.variable for option in OPTIONS if option.is_secret} == set(SECRET_VARIABLES)


@pytest.mark.parametrize("option", OPTIONS, ids=[o.name for o in OPTIONS])
def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch, option: Option) -> None:
    monkeypatch.setenv(option.variable, "")
    assert from_environment(os.environ) == NOTHING


def test_options_that_travel_to_another_process_arrive_with_their_origins(sources: Sources) -> None:
    sources.say("environment", BY_NAME["http_options.port"], 8001)
    sources.say("file", BY_NAME["logging_config.encoding"], "JSON")
    options = sources.resolve()
    again = options_from(msgspec.json.encode(options).decode())
    assert again == options
    assert shown(again) == shown(options)


def test_a_process_that_is_started_by_hand_asks_the_environment_and_the_file(sources: Sources) -> None:
    sources.say("environment", BY_NAME["http_options.port"], 8001)
    sources.say("file", BY_NAME["backlog"], 7)
    options = options_from('{"admin_port": 0}')
    assert (options.http_port, options.backlog, options.admin_port) == (8001, 7, 0)
    assert options.origins["admin_port"] == "environment SERVE_LITE_INSTANCE"
    assert options_from("{}").admin_port == 52365
    assert options_from('{"home": "/tmp/elsewhere"}').home == "/tmp/elsewhere"


# --- Ray Serve's variables -----------------------------------------------------------------------

FOREIGN = {
    "RAY_SERVE_DEFAULT_HTTP_HOST": ("http_options.host", "127.0.0.7", "127.0.0.7"),
    "RAY_SERVE_REQUEST_PROCESSING_TIMEOUT_S": ("http_options.request_timeout_s", "2.5", 2.5),
    "SERVE_REQUEST_PROCESSING_TIMEOUT_S": ("http_options.request_timeout_s", "3", 3.0),
    "RAY_SERVE_HTTP_KEEP_ALIVE_TIMEOUT_S": ("http_options.keep_alive_timeout_s", "7", 7.0),
    "RAY_SERVE_LOG_ENCODING": ("logging_config.encoding", "JSON", "JSON"),
    "RAY_SERVE_ENABLE_JSON_LOGGING": ("logging_config.encoding", "1", "JSON"),
    "SERVE_DEBUG_LOG": ("log_level", "1", "DEBUG"),
    "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": ("grpc_options.max_receive_message_bytes", "5000", 5000),
}


@pytest.mark.parametrize("variable", FOREIGN)
def test_a_variable_of_ray_serve_is_heeded_where_ours_says_nothing(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    name, text, meant = FOREIGN[variable]
    option = BY_NAME[name]
    monkeypatch.setenv(variable, text)
    assert option.value_in(resolve()) == meant
    assert resolve().origins[option.id] == f"environment {variable}"
    other = next(value for value in TWO[name] if value != meant)
    monkeypatch.setenv(option.variable, as_text(option, other))
    assert option.value_in(resolve()) == other


@pytest.mark.parametrize(
    "variable", [name for name in FOREIGN if name.endswith("_S") or FOREIGN[name][1] == "1"]
)
def test_zero_means_not_set_in_variables_of_ray_serve(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "0")
    assert from_environment(os.environ) == NOTHING


def test_every_variable_of_ray_serve_that_is_heeded_is_tested() -> None:
    assert {name for option in OPTIONS for name, _ in option.foreign} == FOREIGN.keys()


# --- wrong values --------------------------------------------------------------------------------

WRONG = {
    "proxy_location": ("Everywhere", "Disabled"),
    "http_options.request_timeout_s": ("soon", "a number"),
    "http_options.keep_alive_timeout_s": ("0", "larger than 0"),
    "http_options.server": ("uvicorn", "hypercorn"),
    "http_options.first_byte_timeout_s": ("0", "larger than 0"),
    "http_options.idle_timeout_s": ("0", "larger than 0"),
    "http_options.read_timeout_s": ("never", "a number"),
    "http_options.write_timeout_s": ("-1", "larger than 0"),
    "http_options.max_connections": ("0", "at least 1"),
    "http_options.max_headers": ("0", "at least 1"),
    "http_options.max_header_bytes": ("12", "at least 1024"),
    "http_options.max_body_bytes": ("-1", "at least 0"),
    "http_options.http3": ("maybe", "true or false"),
    "http_options.forwarded_allow_ips": ("10.0.0.0/33", "a network"),
    "http_options.require_api_key": ("perhaps", "true or false"),
    "grpc_options.enable_reflection": ("perhaps", "true or false"),
    "grpc_options.max_receive_message_bytes": ("2147483648", "at most 2147483647"),
    "grpc_options.max_send_message_bytes": ("-1", "at least 0"),
    "grpc_options.max_connections": ("0", "at least 1"),
    "admin_host": (None, ""),
    "orphan_grace_s": ("-1", "at least 0"),
    "backlog": ("0", "at least 1"),
    "num_cpus": ("many", "a number"),
    "num_gpus": ("1.5", "an integer"),
    "memory_bytes": ("-1", "at least 0"),
    "resources": ("slot=2", "JSON"),
    "memory_limits": ("always", "watched"),
    "log_level": ("LOUD", "INFO"),
    "logging_config.encoding": ("XML", "JSON"),
    "logging_config.log_level": ("LOUD", "INFO"),
    "logging_config.enable_access_log": ("2", "true or false"),
    "logging_config.additional_log_standard_attrs": ("lineon", "lineno"),
}


@pytest.mark.parametrize("name", [name for name, (text, _) in WRONG.items() if text is not None])
def test_a_wrong_variable_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text, right = WRONG[name]
    assert text is not None
    monkeypatch.setenv(BY_NAME[name].variable, text)
    with pytest.raises(InvalidConfigError) as caught:
        resolve()
    assert BY_NAME[name].variable in str(caught.value)
    assert text in str(caught.value)
    assert right in str(caught.value)


@pytest.mark.parametrize("name", ["http_options.port", "grpc_options.port", "admin_port"])
@pytest.mark.parametrize("text", ["65536", "-1", "http", "80.0", " 80", "٨٠"])
def test_a_variable_that_is_no_port_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    variable = BY_NAME[name].variable
    monkeypatch.setenv(variable, text)
    said = re.escape(f"{variable} is {text!r}; it must be an integer, at least 0 and at most 65535.")
    with pytest.raises(InvalidConfigError, match=said):
        resolve()


def test_a_wrong_variable_of_ray_serve_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_REQUEST_PROCESSING_TIMEOUT_S", "soon")
    with pytest.raises(InvalidConfigError, match="RAY_SERVE_REQUEST_PROCESSING_TIMEOUT_S is 'soon'"):
        resolve()


WRONG_FILES = {
    "a wrong value": ("http_options:\n  port: 70000\n", ":2:3: http_options.port is 70000", "at most 65535"),
    "a text for a number": ("# mine\nadmin_port: '80'\n", ":2:1: admin_port is '80'", "an integer"),
    "a misspelt key": ("http_options: {prot: 80}\n", ":1:16: http_options.prot", "did you mean 'port'"),
    "a misspelt section": ("http_option: {port: 80}\n", ":1:1: http_option", "did you mean 'http_options'"),
    "a key of a section at the top": ("\nport: 80\n", ":2:1: port", "it belongs to 'http_options'"),
    "a key of the top in a section": (
        "http_options:\n  backlog: 9\n",
        ":2:3: http_options.backlog",
        "it belongs to the top of the file",
    ),
    "an application": ("applications: []\n", ":1:1: applications", "serve deploy"),
    "an item of a list": (
        "grpc_options:\n  grpc_servicer_functions: [a.b, 3]\n",
        ":2:34: grpc_options.grpc_servicer_functions[1] is 3",
        "a string",
    ),
    "a section that is none": ("grpc_options: 9000\n", ":1:1: grpc_options is 9000", "a mapping"),
    "a list": ("- port: 80\n", ":1:1: ", "must be a mapping"),
    "a key twice": ("backlog: 9\nbacklog: 10\n", ":2:1: not valid YAML", "duplicate key"),
    "no YAML": ("http_options: [", ":1:16: not valid YAML", "expected"),
}


@pytest.mark.parametrize(("text", "where", "right"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_wrong_settings_file_is_refused_with_its_line(text: str, where: str, right: str) -> None:
    path = write_settings(text)
    with pytest.raises(InvalidConfigError) as caught:
        resolve()
    assert str(caught.value).startswith(f"{path}{where}")
    assert right in str(caught.value)


def test_everything_that_is_wrong_in_a_settings_file_is_told_at_once_in_the_order_of_its_lines() -> None:
    path = write_settings(
        "backlog: 0\n"
        "applicatons: []\n"
        "http_options:\n"
        "  prot: 80\n"
        "  keep_alive_timeout_s: 0\n"
        "  forwarded_allow_ips: [10.0.0.0/8, nowhere]\n"
        "grpc_options:\n"
        "  grpc_servicer_functions: [3, a.b.add, 4]\n"
        "logging_config: loud\n"
        "resources: {GPU: 1, slot: 2}\n"
        "admin_port: 8001\n"
        "import_path: a:b\n"
    )
    with pytest.raises(InvalidConfigError) as caught:
        resolve()
    heading, *lines = str(caught.value).splitlines()
    assert heading == f"10 mistakes in {path}:"
    assert [line.removeprefix(f"{path}:").split(" ")[:2] for line in lines] == [
        ["1:1:", "backlog"],
        ["2:1:", "applicatons:"],
        ["4:3:", "http_options.prot:"],
        ["5:3:", "http_options.keep_alive_timeout_s"],
        ["6:37:", "http_options.forwarded_allow_ips[1]"],
        ["8:29:", "grpc_options.grpc_servicer_functions[0]"],
        ["8:41:", "grpc_options.grpc_servicer_functions[2]"],
        ["9:1:", "logging_config"],
        ["10:13:", "resources"],
        ["12:1:", "import_path:"],
    ]


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "http_options:\n", "{}"])
def test_a_settings_file_may_say_nothing(text: str) -> None:
    write_settings(text)
    assert resolve().origins.keys() == {"home", "settings_file"}


def test_yes_and_on_are_true_as_in_config_files() -> None:
    write_settings("grpc_options: {enable_reflection: off}\nlogging_config: {enable_access_log: no}\n")
    options = resolve()
    assert options.grpc_enable_reflection is False
    assert options.logging_config == {"enable_access_log": False}


def test_paths_in_a_settings_file_are_meant_relative_to_it() -> None:
    folder = Path(write_settings("http_options: {ssl_keyfile: tls/key, ssl_certfile: ../cert}\n")).parent
    (folder / "tls").mkdir()
    (folder / "tls" / "key").touch()
    (folder.parent / "cert").touch()
    assert resolve().ssl_keyfile == str(folder / "tls" / "key")
    assert resolve().ssl_certfile == str(folder.parent / "cert")


def test_the_settings_file_that_is_named_is_read_instead_of_the_usual_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_settings({"backlog": 1, "admin_port": 1})
    monkeypatch.setenv("SERVE_LITE_SETTINGS", write_settings({"backlog": 2}, "two.yaml"))
    third = write_settings({"backlog": 3}, "three.yaml")
    assert (resolve().backlog, resolve().admin_port) == (2, 52365)
    assert resolve(settings=third).backlog == 3
    assert resolve(settings=third).origins["backlog"] == f"file {third}:1"
    monkeypatch.delenv("SERVE_LITE_SETTINGS")
    assert resolve().backlog == 1


@pytest.mark.parametrize("way", ["flag --settings", "environment SERVE_LITE_SETTINGS"])
def test_a_settings_file_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if way.startswith("environment"):
        monkeypatch.setenv("SERVE_LITE_SETTINGS", "/nowhere.yaml")
    with pytest.raises(InvalidConfigError, match=rf"no settings file '/nowhere\.yaml' \({way}\)"):
        resolve(settings="" if way.startswith("environment") else "/nowhere.yaml")


def test_key_and_certificate_belong_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_LITE_HTTP_SSL_KEYFILE", "/dev/null")
    said = r"only ssl_keyfile is \(environment SERVE_LITE_HTTP_SSL_KEYFILE\)"
    with pytest.raises(InvalidConfigError, match=said):
        resolve()
    monkeypatch.setenv("SERVE_LITE_HTTP_SSL_CERTFILE", "/no/such/file")
    with pytest.raises(InvalidConfigError, match=r"ssl_certfile is '/no/such/file' \(environment"):
        resolve()


# --- programs and commands -----------------------------------------------------------------------

#: How a program or a command says where HTTP shall be.
WAYS: dict[str, Callable[[dict[str, Any]], InstanceOptions]] = {
    "serve.start with a dict": lambda given: api._instance_options(None, given),
    "serve.start with HTTPOptions": lambda given: api._instance_options(None, HTTPOptions(**given)),
    "serve start": lambda given: instance_options("", layer_of("http_options", given, "flag {}")),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_port_that_is_given_wins_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, way: Callable[[dict[str, Any]], InstanceOptions]
) -> None:
    monkeypatch.setenv("SERVE_LITE_HTTP_PORT", "8123")
    assert way({"port": 9000}).http_port == 9000
    assert way({"port": 0}).http_port == 0
    assert way({"keep_alive_timeout_s": 5.0}).http_port == 8123
    assert way({}).http_port == 8123


def test_serve_run_takes_the_environments_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_LITE_HTTP_PORT", "8123")
    assert api._instance_options(None, None).http_port == 8123
    assert api._instance_options(None, {"port": 8000}).http_port == 8000


def test_arguments_of_a_program_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    write_settings({"http_options": {"keep_alive_timeout_s": 4}})
    options = api._instance_options(
        "HeadOnly",
        {"server": "hypercorn", "host": "127.0.0.2"},
        gRPCOptions(port=9001),
        LoggingConfig(encoding="JSON"),  # type: ignore[arg-type]
    )
    assert (options.server, options.grpc_port, options.keep_alive_timeout_s) == ("hypercorn", 9001, 4.0)
    assert options.logging_config == {"encoding": "JSON"}
    assert options.origins["server"] == "argument http_options.server of serve.start"
    assert options.origins["grpc_port"] == "argument grpc_options.port of serve.start"
    assert options.origins["proxy_location"] == "argument proxy_location of serve.start"
    assert options.origins["logging_config.encoding"] == "argument logging_config.encoding of serve.start"
    assert options.origins["keep_alive_timeout_s"].startswith("file ")
    by_run = api._instance_options(None, {"port": 0}, caller="serve.run")
    assert by_run.origins["http_port"] == "argument http_options.port of serve.run"


def test_no_http_means_no_grpc_either() -> None:
    functions = {"grpc_options.grpc_servicer_functions": ("--f", ["a:add"])}
    on = resolve(given=layer_of_flags({**functions, "http_options.host": ("--h", "127.0.0.3")}))
    assert (on.grpc_host, on.grpc_servicer_functions) == ("127.0.0.3", ("a:add",))
    assert on.grpc_sys_path == (os.getcwd(),)
    off = resolve(given=layer_of_flags({**functions, "proxy_location": ("--p", "Disabled")}))
    assert (off.http_host, off.grpc_servicer_functions) == (None, ())
    assert off.origins["grpc_servicer_functions"] == "off, as HTTP is: flag --p"
    write_settings({"http_options": {"host": None}})
    assert (resolve().http_host, resolve().proxy_location) == (None, "Disabled")


# --- what a running instance tells ---------------------------------------------------------------


def test_a_secret_is_hidden() -> None:
    password = {"http_options.ssl_keyfile_password": ("--x", "hunter2")}
    options = resolve(given=layer_of_flags(password))
    assert "hunter2" not in repr(shown(options))
    row = next(row for row in shown(options) if row.name == "http_options.ssl_keyfile_password")
    assert (row.value, row.origin) == (HIDDEN, "flag --x")
    assert not differences(options, shown(resolve()))


def test_the_port_that_was_bound_is_shown_with_who_left_it_open() -> None:
    options = resolve(given=layer_of_flags({"http_options.port": ("--http-port", 0)}))
    row = next(row for row in shown(options, {"http_port": 4711}) if row.name == "http_options.port")
    assert (row.value, row.origin) == (4711, "flag --http-port; 0: the kernel chooses")


@pytest.mark.parametrize("option", OPTIONS, ids=[o.name for o in OPTIONS])
def test_what_is_asked_of_a_running_instance_in_vain_is_named(sources: Sources, option: Option) -> None:
    running = sources.resolve()
    wanted = next(v for v in TWO[option.name] if v != option.value_in(running))
    if option.name == "proxy_location":
        wanted = "Disabled"
    sources.say("environment", option, wanted)
    companions = COMPANIONS.get(option.name, ())
    asked = sources.resolve(**dict.fromkeys(companions, "/dev/null"))
    told = differences(asked, shown(running))
    if option.is_secret:
        assert told == []
        return
    assert any(
        line.startswith(f"{option.name} stays ") and f"(environment {option.variable}) is not applied" in line
        for line in told
    )
    assert differences(asked, shown(asked)) == []


def test_port_0_and_another_word_for_everywhere_ask_for_nothing() -> None:
    asked = layer_of_flags(
        {"http_options.port": ("--http-port", 0), "proxy_location": ("--proxy-location", "HeadOnly")}
    )
    assert differences(resolve(given=asked), shown(resolve(), {"http_port": 4711})) == []


def test_what_memory_limits_have_come_to_is_shown_and_auto_is_satisfied_by_it() -> None:
    def row(options: InstanceOptions, told: str) -> tuple[object, str]:
        (found,) = [s for s in shown(options, memory_limits=told) if s.name == "memory_limits"]
        return found.value, found.origin

    assert row(resolve(), "kernel") == ("kernel", "default; auto: cgroups may be made")
    assert row(resolve(), "watched: it is so") == ("watched", "default; auto: it is so")
    assert row(resolve(), "") == ("auto", "default")
    strict = resolve(given=layer_of("", {"memory_limits": "kernel"}, "flag {}"))
    assert row(strict, "kernel") == ("kernel", "flag memory_limits")
    running = shown(resolve(), memory_limits="watched: it is so")
    asked = resolve(given=layer_of("", {"memory_limits": "auto"}, "flag {}"))
    assert differences(asked, running) == []
    assert differences(strict, running) == [
        "memory_limits stays watched; kernel (flag memory_limits) is not applied."
    ]


def test_documents_and_their_schema_know_the_front() -> None:
    several = document_schema()["anyOf"][0]["properties"]["http_options"]["properties"]
    assert several["server"] == {"enum": ["native", "hypercorn"], "default": "native"}
    assert parse_deploy_document({"applications": [], "http_options": {"server": "hypercorn"}})
    with pytest.raises(InvalidConfigError, match=r"http_options\.server is 'nginx'"):
        parse_deploy_document({"applications": [], "http_options": {"server": "nginx"}})
