"""What one route and method is for, in words and schemas: the route modules declare it beside their handlers.

Values only. `openapi.py` makes the description that clients and docs/rest.md read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

#: What a body or an answer looks like: a type that msgspec can describe, or a JSON Schema as it is.
Shape = type | Mapping[str, Any]


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a request may say outside its body."""

    name: str
    place: Literal["path", "query", "header"]
    about: str
    shape: Mapping[str, Any] = msgspec.field(default_factory=lambda: {"type": "string"})


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path."""

    id: str
    method: str
    path: str  #: without the slash at its end
    summary: str
    about: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Shape | None = None
    answer: Shape | None = None  #: of a 200; None: it has no body
    media_type: str = "application/json"  #: of the answer
    is_tagged: bool = False  #: the answer has an ETag
    is_conditional: bool = False  #: takes If-Match
    refusals: Mapping[
        int, str
    ] = {}  #: when it is refused with which status, beside what every route may answer
    has_slash: bool = True  #: the path means the same with a slash at its end


class Mistake(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong."""

    error: str  #: what is wrong, and what would be right
    path: str  #: the place in the document that is meant, or the parameter; empty where there is none


class Refused(Mistake, frozen=True, kw_only=True):
    """What every refusal looks like."""

    errors: list[Mistake] | msgspec.UnsetType = (
        msgspec.UNSET
    )  #: of a document: all that is wrong, the first included


#: The names in a path.
APPLICATION = Parameter(
    name="name", place="path", about="Name of an application.", shape={"type": "string", "minLength": 1}
)
DEPLOYMENT = Parameter(
    name="deployment", place="path", about="Name of a deployment.", shape={"type": "string", "minLength": 1}
)
BASE_DIR = Parameter(
    name="serve-lite-base-dir",
    place="header",
    about="Absolute path of the folder that applications without a `working_dir` run in; else the instance's own.",
    shape={"type": "string", "pattern": "^/"},
)
MERGE = Parameter(
    name="merge",
    place="query",
    about="`true`: add or replace the applications that are named, and leave the others alone.",
    shape={"enum": ["true", "false"], "default": "false"},
)
