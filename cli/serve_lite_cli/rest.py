"""A client of the control plane's REST API: one request, one answer, errors a user can act on."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from serve_lite.exceptions import InstanceError, InvalidConfigError

APPLICATIONS = "/api/serve/applications/"
DEPLOYMENTS = "/api/serve/deployments/"
INSTANCE = "/api/serve/instance"
HEALTH = "/api/serve/controller_health"

#: So much of a foreign server's error page is shown.
MOST_OF_A_STRANGER = 500

#: Longer than a DELETE may take, which waits for replicas to drain.
TIMEOUT_S = 60.0


def with_query(path: str, asked: Mapping[str, bool]) -> str:
    """Return `path` with those parameters that are asked for."""
    said = "&".join(f"{name}=true" for name, is_asked in asked.items() if is_asked)
    return f"{path}?{said}" if said else path


class Refused(InvalidConfigError):
    """The control plane said no (4xx): what it said, and which part of the document it meant."""

    def __init__(self, status: int, message: str, path: str) -> None:
        super().__init__(message)
        self.status, self.path = status, path


class Answer(dict[str, Any]):
    """A JSON object from a URL. A field that it lacks is told as what it is: somebody else answers there."""

    def __init__(self, content: dict[str, Any], url: str) -> None:
        super().__init__(content)
        self.url = url

    def __missing__(self, field: str) -> Any:
        raise InstanceError(
            f"What answers at {self.url} is no control plane of serve-lite: its answer has no {field!r}. "
            "--address takes the URL that `serve start` shows as REST."
        )


class RestClient(msgspec.Struct, frozen=True):
    """The control plane at one URL."""

    url: str
    token: str = ""  #: to bear; "": none

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON object at `path`."""
        return _read_object(self._request("GET", path)[0], self.url)

    def put(
        self, path: str, document: dict[str, Any], headers: dict[str, str] | None = None
    ) -> http.client.HTTPMessage:
        """Store `document` at `path`; return the headers of the answer."""
        body = msgspec.json.encode(document)
        return self._request("PUT", path, body, {"content-type": "application/json", **(headers or {})})[1]

    def post(
        self,
        path: str,
        document: dict[str, Any],
        headers: dict[str, str] | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> dict[str, Any]:
        """Return the JSON object that answers `document`."""
        body = msgspec.json.encode(document)
        headers = {"content-type": "application/json", **(headers or {})}
        said, _ = self._request("POST", path, body, headers, timeout_s=timeout_s)
        return _read_object(said, self.url)

    def delete(self, path: str) -> None:
        """Delete what `path` stands for."""
        self._request("DELETE", path)

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> tuple[bytes, http.client.HTTPMessage]:
        """Return body and headers of a 200.

        Raises:
            InstanceError: nobody answers, or something failed there.
            Refused: the request was refused.
        """
        base = urlsplit(self.url)
        kind = http.client.HTTPSConnection if base.scheme == "https" else http.client.HTTPConnection
        connection = kind(base.hostname or "", base.port, timeout=timeout_s)
        try:
            bearer = {"authorization": f"Bearer {self.token}"} if self.token else {}
            connection.request(method, base.path.rstrip("/") + path, body, {**bearer, **(headers or {})})
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise InstanceError(
                f"Failed to connect to serve-lite at address: {self.url} ({error}). "
                "Is an instance running there? `serve start` starts one; --address chooses another."
            ) from error
        finally:
            connection.close()
        if response.status == http.HTTPStatus.OK:
            return content, response.headers
        said = _reason(content)
        if said is None:  # not in our words: a proxy, or another server
            text = content.decode(errors="replace").strip()[:MOST_OF_A_STRANGER] or response.reason
            said = f"Request to {self.url} failed with status code {response.status}: {text}", ""
        elif response.status >= 500:
            said = f"Request failed with status code {response.status}: {said[0]}.", ""
        if 400 <= response.status < 500:
            raise Refused(response.status, *said)
        raise InstanceError(said[0])


def _reason(content: bytes) -> tuple[str, str] | None:
    """Return message and document path of an error answer; None if it is not one of ours."""
    try:
        answer = json.loads(content)
        return str(answer["error"]), str(answer.get("path", ""))
    except (ValueError, TypeError, KeyError):
        return None


def _read_object(content: bytes, url: str) -> Answer:
    """Return the JSON object that was answered.

    Raises:
        InstanceError: it is none.
    """
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InstanceError(
            f"What answers at {url} is no control plane of serve-lite: it answered {content[:60]!r}. "
            "--address takes the URL that `serve start` shows as REST."
        )
    return Answer(found, url)
