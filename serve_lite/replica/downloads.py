"""Fetching an archive over HTTP, within limits."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import httpx

from serve_lite.replica.preparation_error import PreparationError
from serve_lite.state.environment import without_credentials
from serve_lite.wire.spawning import ArchiveLimits

_MOST_REDIRECTS = 5
_SILENCE_S = 30.0  #: for a connection, and between two pieces of the answer


def download(url: str, target: Path, sha256: str, limits: ArchiveLimits) -> None:
    """Write what is at `url` into the file `target`.

    Raises:
        PreparationError: it cannot be fetched, is too large or slow, or has another hash than `sha256` (if given).
        OSError: it cannot be written.
    """
    shown = without_credentials(url).partition("?")[0]  # what follows is often a signature
    try:
        found = _fetch(url, shown, target, limits)
    except httpx.TooManyRedirects:
        raise PreparationError(
            f"{shown} cannot be fetched: it redirects more than {_MOST_REDIRECTS} times."
        ) from None
    except httpx.TimeoutException as error:
        raise PreparationError(
            f"{shown} cannot be fetched: the server was silent for {min(_SILENCE_S, limits.timeout_s):g} s."
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = without_credentials(str(error)) or type(error).__name__
        raise PreparationError(f"{shown} cannot be fetched: {why}.") from error
    if sha256 and found != sha256:
        raise PreparationError(
            f"{shown} has the SHA-256 hash {found}, but the runtime_env says {sha256}. Another file is there than "
            "was meant; check it, and correct the URL or the hash."
        )


def _fetch(url: str, shown: str, target: Path, limits: ArchiveLimits) -> str:
    """Fetch and return the SHA-256 hash, in hexadecimal digits."""
    give_up_at = time.monotonic() + limits.timeout_s
    most = limits.download_bytes
    sum_, size = hashlib.sha256(), 0
    with (
        httpx.Client(
            follow_redirects=True,
            max_redirects=_MOST_REDIRECTS,
            timeout=min(_SILENCE_S, limits.timeout_s),
            event_hooks={"response": [_refuse_downgrade]},
        ) as client,
        client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer,
        target.open("xb") as file,
    ):
        if answer.status_code != httpx.codes.OK:
            raise PreparationError(
                f"{shown} cannot be fetched: the server answers {answer.status_code} {answer.reason_phrase}."
            )
        told = answer.headers.get("Content-Length", "")
        if told.isdigit() and int(told) > most:
            raise _too_large(shown, most)
        for piece in answer.iter_bytes():
            size += len(piece)
            if size > most:
                raise _too_large(shown, most)
            if time.monotonic() > give_up_at:
                raise PreparationError(
                    f"{shown} cannot be fetched: after {limits.timeout_s:g} s there were {size} bytes of it. "
                    "SERVE_LITE_ARCHIVE_TIMEOUT_S of the instance allows more time."
                )
            sum_.update(piece)
            file.write(piece)
    return sum_.hexdigest()


def _refuse_downgrade(answer: httpx.Response) -> None:
    """Refuse to be led from https to something that others can read and change."""
    following = answer.next_request
    if following is not None and answer.request.url.scheme == "https" and following.url.scheme != "https":
        raise PreparationError(
            f"{_bare(answer.request.url)} cannot be fetched: it redirects to {_bare(following.url)}, "
            "which is not https."
        )


def _bare(url: httpx.URL) -> str:
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))


def _too_large(shown: str, most: int) -> PreparationError:
    return PreparationError(
        f"{shown} is larger than {most} bytes; SERVE_LITE_ARCHIVE_MAX_BYTES of the instance allows more."
    )
