"""Conditional requests: nobody overwrites what somebody else has changed meanwhile, and nobody reads it all again.

A configuration has a revision, and its tag names the instance and that revision: `"<node>-<revision>"`. A GET adds
a digest of what it shows, since statuses change by themselves: `"<node>-<revision>.<digest>"`. So `If-Match` (RFC
9110, section 13.1.1) asks for the revision only, and takes either; `If-None-Match` (13.1.2) asks whether anything at
all is different.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import msgspec
from starlette.requests import Request
from starlette.responses import Response

IF_MATCH, IF_NONE_MATCH = "if-match", "if-none-match"


def revisions_wanted(request: Request, tag: str) -> list[int] | None:
    """Return the revisions that the request's `If-Match` takes; None if it takes all. `tag` is the present one's."""
    given = request.headers.getlist(IF_MATCH)
    return revisions_in(",".join(given), tag) if given else None


def revisions_in(if_match: str, tag: str) -> list[int] | None:
    """Return the revisions that an `If-Match` header takes; None if it takes all.

    Tags of other instances, and what is no tag of ours, match nothing; nor do weak ones, as the RFC wants it.
    """
    if if_match.strip() == "*":
        return None
    instance = tag.rpartition("-")[0]
    found = []
    for entry in _entries(if_match):
        named, _, rest = entry.strip('"').rpartition("-")
        revision = rest.partition(".")[0]
        if named == instance and revision.isascii() and revision.isdecimal() and len(revision) <= 19:
            found.append(int(revision))
    return found


def tagged(tag: str, revision: int) -> dict[str, str]:
    """Return the header with the tag that this instance had or has at another revision."""
    return {"etag": f'"{tag.rpartition("-")[0]}-{revision}"'}


def answer_unless_known(request: Request, value: object, tag: str) -> Response:
    """Return `value` as JSON with its tag, or 304 if the client has it already."""
    body = msgspec.json.encode(value)
    etag = f'"{tag}.{hashlib.blake2b(body, digest_size=8).hexdigest()}"'
    known = [entry.removeprefix("W/") for entry in _entries(",".join(request.headers.getlist(IF_NONE_MATCH)))]
    headers = {"etag": etag, "cache-control": "no-cache"}
    if "*" in known or etag in known:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


def _entries(header: str) -> Iterator[str]:
    return (entry for part in header.split(",") if (entry := part.strip()))
