"""What `serve security-check` looks at: each check is a function that returns what is wrong, nothing if all is well.

No check changes anything, and none sends an application a request. `probes.py` talks to the doors; `security_check.py`
says how it went.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from serve_lite.daemon.home import Paths
from serve_lite.daemon.token import read_token
from serve_lite.exceptions import InstanceError
from serve_lite_cli.probes import Door, Reply, ask, request

APPLICATIONS = "/api/serve/applications/"
HEALTH = "/-/healthz"

#: Read without harm: what other sites and strangers may not even ask.
READS = (("GET", APPLICATIONS), ("GET", HEALTH), ("GET", "/metrics"), ("GET", "/nowhere"), ("PROPFIND", "/"))

REDACTED = "<redacted>"
_CREDENTIALS = re.compile(r"[a-z][a-z0-9+.-]*://(?!<redacted>@)[^/@\s]+@", re.IGNORECASE)

#: A request that two parsers may take for different things, up to the blank line that ends its head.
AMBIGUOUS: Mapping[str, str] = {
    "a length and chunks": "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\n"
    "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nContent-Length: 3\r\n\r\n",
    "a length that is no number": "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: +3\r\n\r\n",
    "an unknown coding": "POST {path} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "lines that end without CR": "GET {path} HTTP/1.1\nHost: {host}\n\n",
    "a folded header": "GET {path} HTTP/1.1\r\nHost: {host}\r\nX: a\r\n b\r\n\r\n",
    "a space before a colon": "GET {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length : 0\r\n\r\n",
    "a bad chunk size": "POST {path} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
    "0x1\r\na\r\n0\r\n\r\n",
    "two hosts": "GET {path} HTTP/1.1\r\nHost: {host}\r\nHost: other.example\r\n\r\n",
}

#: An object that is looked up by whoever unpickles it: `os.getpid`, which does no harm.
PICKLE = b"\x80\x02cos\ngetpid\n."
PICKLE_TYPES = ("application/x-pickle", "application/python-pickle", "application/vnd.python.cloudpickle")

OUTWARD = (
    "/../../../../etc/passwd",
    "/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/api/serve/applications/..%2f..%2f..%2fetc%2fpasswd/history",
    "/api/serve/applications/%2e%2e/history",
    "//etc/passwd",
    "/logs/../token",
    "/static/..%5c..%5ctoken",
    "/%00/etc/passwd",
)


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is checked."""

    admin: Door
    token: str  #: "": none is known
    http: Door | None = None  #: None: there is none, or it is not of this machine
    where: Paths | None = None  #: None: only a URL is known
    is_exposed: bool = False  #: other machines can reach the control plane


Check = Callable[[Facts], Iterator[str]]


def _bearer(facts: Facts) -> dict[str, str]:
    return {"authorization": f"Bearer {facts.token}"} if facts.token else {}


def _ask_admin(facts: Facts, method: str, path: str, more: Mapping[str, str], body: bytes = b"") -> Reply:
    return ask(facts.admin, request(facts.admin, method, path, {**_bearer(facts), **more}, body))


def _each_read(facts: Facts, headers: Mapping[str, str], expected: int, what: str) -> Iterator[str]:
    for method, path in READS:
        status = _ask_admin(facts, method, path, headers).status
        if status != expected:
            yield f"{method} {path} {what} is answered {status}, and should be {expected}"


def other_sites(facts: Facts) -> Iterator[str]:
    """Pages of other sites may not use the control plane."""
    yield from _each_read(facts, {"origin": "https://evil.example"}, 403, "with the Origin of another site")
    yield from _each_read(facts, {"sec-fetch-site": "cross-site"}, 403, "from another site")


def other_sites_sockets(facts: Facts) -> Iterator[str]:
    """They cannot open a WebSocket to it either."""
    upgrades = {
        "websocket": {
            "connection": "Upgrade",
            "upgrade": "websocket",
            "sec-websocket-version": "13",
            "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
        },
    }
    for kind, headers in upgrades.items():
        status = _ask_admin(facts, "GET", "/", {**headers, "origin": "https://evil.example"}).status
        if status != 403:
            yield f"a {kind} from another site is answered {status}, and should be 403"


def rebound_names(facts: Facts) -> Iterator[str]:
    """A name that an attacker points at this machine (DNS rebinding) opens nothing."""
    if facts.is_exposed:  # by names that nobody can list; a token is always asked for there
        yield from _each_read(
            msgspec.structs.replace(facts, token=""), {"host": "evil.example"}, 401, "without a token"
        )
        return
    yield from _each_read(facts, {"host": "evil.example"}, 403, "for another host")
    yield from _each_read(facts, {"host": f"{facts.admin.host}.evil.example"}, 403, "for a similar host")


def wrong_tokens(facts: Facts) -> Iterator[str]:
    """A wrong token is refused, whoever bears it."""
    for wrong in ("Bearer wrong", "Bearer " + "0" * 64, "Basic cm9vdDpyb290", "Bearer"):
        yield from _each_read(facts, {"authorization": wrong}, 401, f"with `Authorization: {wrong[:12]}...`")


def no_token(facts: Facts) -> Iterator[str]:
    """Who is not the instance's user needs a token."""
    stranger = msgspec.structs.replace(facts, token="")
    through_a_proxy = {"x-forwarded-for": "203.0.113.7"}
    yield from _each_read(stranger, through_a_proxy, 401, "through a proxy, without a token,")


def ways_out(facts: Facts) -> Iterator[str]:
    """No path leads out to files."""
    for path in OUTWARD:
        reply = _ask_admin(facts, "GET", path, {})
        if reply.status not in (400, 404) or "root:" in reply.text:
            yield f"GET {path} is answered {reply.status}, and should be 400 or 404"


def pickles(facts: Facts) -> Iterator[str]:
    """What is not JSON is refused, and never unpickled."""
    for kind in PICKLE_TYPES:
        status = _ask_admin(facts, "POST", f"{APPLICATIONS}diff", {"content-type": kind}, PICKLE).status
        if not 400 <= status < 500:
            yield f"a body of {kind} is answered {status}, and should be refused"


def ambiguous_requests(facts: Facts) -> Iterator[str]:
    """Requests that two parsers cut differently (smuggling) are refused, and end their connection."""
    for door in (facts.admin, facts.http):
        if door is None:
            continue
        follower = f"GET {HEALTH} HTTP/1.1\r\nHost: {door.authority}\r\n\r\n"
        for name, text in AMBIGUOUS.items():
            reply = ask(door, (text.format(path=HEALTH, host=door.authority) + follower).encode())
            if not 400 <= reply.status <= 501 or len(reply.statuses) > 1 or not reply.has_closed:
                yield f"{door.name} answers {name} with {reply.statuses or 'nothing'}, and should with 400 alone"


def talkative_answers(facts: Facts) -> Iterator[str]:
    """Answers tell neither the server's software nor its insides."""
    replies = {
        f"{method} {path}": _ask_admin(facts, method, path, {})
        for method, path in (*READS, ("PUT", APPLICATIONS), ("POST", f"{APPLICATIONS}diff"))
        if path != APPLICATIONS or method != "PUT"
    }
    if facts.http is not None:
        replies["GET /-/healthz of HTTP"] = ask(facts.http, request(facts.http, "GET", HEALTH))
        replies["a malformed request to HTTP"] = ask(facts.http, b"GET / HTTP/1.1\r\nbad\r\n\r\n")
    replies["a malformed request"] = ask(facts.admin, b"GET / HTTP/1.1\r\nbad\r\n\r\n")
    for name, reply in replies.items():
        if "\nserver:" in reply.headers or "\nx-powered-by:" in reply.headers:
            yield f"{name} is answered with a Server header"
        if reply.status >= 400 and ("Traceback" in reply.text or 'File "' in reply.text):
            yield f"{name} is answered with a traceback"
        if reply.status >= 400 and facts.where is not None and facts.where.home in reply.text:
            yield f"{name} is refused with a path of this machine"


def secrets_in_answers(facts: Facts) -> Iterator[str]:
    """Values of variables and passwords in URLs are not shown."""
    paths = [APPLICATIONS, "/api/serve/deployments/", "/api/serve/events", "/api/serve/instance"]
    details = _json_of(facts, APPLICATIONS)
    paths += [f"{APPLICATIONS}{name}/history" for name in (details or {}).get("applications", {})]
    for path in paths:
        content = _json_of(facts, path)
        if content is None:
            yield f"GET {path} is not answered with JSON"
            continue
        for place, problem in _secrets(content, ""):
            yield f"GET {path}: {problem} at {place}"
        if facts.token and facts.token in json.dumps(content):
            yield f"GET {path} shows the token"


def listeners(facts: Facts) -> Iterator[str]:
    """The control plane can be reached from this machine only, or asks everybody for a token."""
    if facts.is_exposed:
        stranger = msgspec.structs.replace(facts, token="")
        yield from _each_read(stranger, {}, 401, "without a token, where other machines can ask,")


def files(facts: Facts) -> Iterator[str]:
    """Directories, sockets, logs and the token are the instance's user's alone."""
    assert facts.where is not None
    where = facts.where
    for folder in {where.home, where.run, where.logs}:
        yield from _private(folder, stat.S_ISDIR, 0o077, "directory")
    if where.run != where.home and os.path.islink(where.run):
        yield f"{where.run} is a link"
    for folder in {where.home, where.run}:
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            if name.endswith(".sock"):
                yield from _private(path, stat.S_ISSOCK, 0o077, "socket")
            elif name.startswith(("state.db", "token", "lock")):
                yield from _private(path, stat.S_ISREG, 0o077, "file")
    try:
        read_token(where.token)
    except FileNotFoundError:
        yield "there is no token; `serve token rotate` makes one"
    except InstanceError as error:
        yield str(error)


#: Name of each check that needs only the doors, and what it looks at.
CHECKS: Mapping[str, Check] = {
    "listeners": listeners,
    "other-sites": other_sites,
    "other-sites-websocket": other_sites_sockets,
    "dns-rebinding": rebound_names,
    "wrong-token": wrong_tokens,
    "no-token": no_token,
    "path-traversal": ways_out,
    "pickle": pickles,
    "smuggling": ambiguous_requests,
    "talkative-answers": talkative_answers,
    "secrets": secrets_in_answers,
}

#: Those that need the state directory too.
LOCAL_CHECKS: Mapping[str, Check] = {"files": files}


def _private(path: str, is_kind: Callable[[int], bool], forbidden: int, kind: str) -> Iterator[str]:
    try:
        found = os.stat(path)
    except FileNotFoundError:  # of a replica that has just ended
        return
    if not is_kind(found.st_mode):
        yield f"{path} is no {kind}"
    elif found.st_uid != os.geteuid() and os.geteuid() != 0:
        yield f"the {kind} {path} belongs to user {found.st_uid}"
    elif found.st_mode & forbidden:
        yield f"the {kind} {path} is open to others (mode {stat.S_IMODE(found.st_mode):04o})"


def _json_of(facts: Facts, path: str) -> Any:
    """Return what is answered with JSON; None if it is not."""
    reply = _ask_admin(facts, "GET", path, {"accept": "application/json"})
    head, _, body = reply.text.partition("\r\n\r\n")
    if reply.status != 200:
        return None
    if "transfer-encoding: chunked" in head.lower():
        body = body.partition("\r\n")[2].rpartition("\r\n0\r\n")[0]
    try:
        return json.loads(body.encode("latin-1"))
    except ValueError:
        return None


def _secrets(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Return the places of secrets that are shown, and what each is."""
    if isinstance(value, dict):
        for key, inner in value.items():
            there = f"{place}.{key}" if place else str(key)
            if key == "env_vars" and isinstance(inner, dict):
                for name, text in inner.items():
                    if text != REDACTED:
                        yield f"{there}.{name}", "the value of a variable"
            elif "password" in str(key).lower() and inner not in (None, "", REDACTED):
                yield there, "a password"
            else:
                yield from _secrets(inner, there)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _secrets(inner, f"{place}[{i}]")
    elif isinstance(value, str) and _CREDENTIALS.search(value):
        yield place, "a password in a URL"
