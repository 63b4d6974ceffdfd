"""A client of the control plane's REST API: one request, one answer, errors a user can act on."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import msgspec

from serve_lite.exceptions import InstanceError, InvalidConfigError

APPLICATIONS = "/api/serve/applications/"
DEPLOYMENTS = "/api/serve/deployments/"
INSTANCE = "/api/serve/instance"

#: Longer than a DELETE may take, which waits for replicas to drain.
TIMEOUT_S = 60.0


class Refused(InvalidConfigError):
    """The control plane said no (4xx): what it said, and which part of the document it meant."""

    def __init__(self, status: int, message: str, path: str) -> None:
        super().__init__(message)
        self.status, self.path = status, path


class RestClient(msgspec.Struct, frozen=True):
    """The control plane at one URL."""

    url: str

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON object at `path`."""
        answer: dict[str, Any] = json.loads(self._request("GET", path)[0])
        return answer

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
        answer: dict[str, Any] = json.loads(said)
        return answer

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
            InstanceError: nobody answers, or the answer is no answer of a control plane.
            Refused: the control plane refused the request.
        """
        base = urlsplit(self.url)
        kind = http.client.HTTPSConnection if base.scheme == "https" else http.client.HTTPConnection
        connection = kind(base.hostname or "", base.port, timeout=timeout_s)
        try:
            connection.request(method, base.path.rstrip("/") + path, body, headers or {})
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
        message, where = _reason(content)
        if 400 <= response.status < 500:
            raise Refused(response.status, message, where)
        raise InstanceError(f"Request failed with status code {response.status}: {message}.")


def _reason(content: bytes) -> tuple[str, str]:
    """Return message and document path of an error answer, which may come from something else than us."""
    try:
        answer = json.loads(content)
        return str(answer["error"]), str(answer.get("path", ""))
    except (ValueError, TypeError, KeyError):
        return content.decode(errors="replace").strip()[:500], ""
