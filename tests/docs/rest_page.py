"""docs/rest.md from the description that an instance serves at `/api/serve/openapi.json`.

What a field is for is told where the classes are listed, in tests/compat/table.yaml.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from serve_lite.admin.app import ENDPOINTS
from serve_lite.admin.openapi import COMMON, describe
from tests.compat.table import lines_of, read
from tests.docs.markdown import anchor, code, table

_HEAD = """\
<!-- Made by `make docs` from the routes in serve_lite/admin; change it there. -->

# REST API

An instance listens on `127.0.0.1:52365` unless told otherwise, and describes itself to programs at
`/api/serve/openapi.json` (OpenAPI 3.1), of which this page is made. `/api/serve/applications/` is what Ray Serve calls
V2, and `/api/serve/deployments/` what it called V1, for a single application; the two kinds of documents are not mixed.

Paths mean the same with and without a slash at their end. Bodies are JSON in UTF-8, whatever the `Content-Type`. A
change that is refused has changed nothing, and a refusal is JSON:

```json
{"error": "what is wrong, and what would be right", "path": "applications[0].route_prefix"}
```

**Conditions.** An answer's `ETag` names the revision of the configuration. With it in `If-Match`, a change is refused
(412) if somebody else was quicker; what happens by itself, statuses and autoscaling, does not count. With it in
`If-None-Match`, a GET is answered 304 if nothing at all is different.
"""

_METHODS = ("get", "put", "patch", "post", "delete")


#: Where the table tells of the fields of a schema, if not under `schema.` and its own name.
_TOLD_AT = {
    "Config": "schema.ServeDeploySchema",
    "ApplicationConfig": "schema.ServeApplicationSchema",
    "SingleApplicationConfig": "schema.ServeApplicationSchema",
    "DeploymentConfig": "deployment",
    # Of what stands in a document under this name.
    "http_options": "config.HTTPOptions",
    "grpc_options": "config.gRPCOptions",
    "logging_config": "schema.LoggingConfig",
    "tracing_config": "schema.TracingConfig",
    "autoscaling_config": "config.AutoscalingConfig",
    "autoscaling_policy": "config.AutoscalingPolicy",
    "policy": "config.AutoscalingPolicy",
    "request_router_config": "config.RequestRouterConfig",
    "backpressure_config": "config.BackpressureConfig",
    "ray_actor_options": "schema.RayActorOptionsSchema",
}


@cache
def _told() -> Mapping[str, str]:
    return {line.name: line.entry.behaviour for group in read() for line in lines_of(group)}


def _about(owner: str, name: str, schema: Mapping[str, Any]) -> str:
    """Return what a field is for; `owner` is its schema, or the field that it stands under."""
    told = _told().get(f"{_TOLD_AT.get(owner, f'schema.{owner}')}.{name}")
    return (told or schema.get("description", "")) + (" Deprecated." if schema.get("deprecated") else "")


def page() -> str:
    """Return the whole page."""
    description = describe(ENDPOINTS)
    parts = [_HEAD, _everywhere(), _contents(description["paths"])]
    parts += [_operation(path, method, operation) for path, method, operation in _operations(description)]
    parts.append("## Schemas\n")
    schemas = description["components"]["schemas"]
    parts += [_schema(name, schemas[name]) for name in sorted(schemas)]
    return "\n".join(parts)


def _operations(description: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in description["paths"].items():
        for method in _METHODS:
            if method in methods:
                yield path, method, methods[method]


def _everywhere() -> str:
    rows = [(code(str(status)), reason) for status, reason in COMMON.items()]
    return "Every route may answer:\n\n" + table(["status", "when"], rows) + "\n"


def _contents(paths: Mapping[str, Any]) -> str:
    rows = [
        (f"[{method.upper()} {code(path)}](#{anchor(f'{method} {path}')})", methods[method]["summary"])
        for path, methods in paths.items()
        for method in _METHODS
        if method in methods
    ]
    return table(["route", "what it does"], rows) + "\n"


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    parts = [f"## {method.upper()} {code(path)}", f"{operation['summary']}."]
    if "description" in operation:
        parts.append(operation["description"])
    if parameters := operation.get("parameters"):
        rows = [
            (code(p["name"]), p["in"], kind(p["schema"]), _default(p["schema"]), p["description"])
            for p in parameters
        ]
        parts.append(table(["parameter", "in", "is", "default", "what it is"], rows))
    if body := operation.get("requestBody"):
        (content,) = body["content"].values()
        parts.append(f"Body: {_shape(content['schema'])}")
    parts.append(table(["status", "answer", "when"], _answers(operation["responses"])))
    return "\n\n".join(parts) + "\n"


def _answers(responses: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The answers of one operation, without those that are the same everywhere."""
    for status, response in responses.items():
        if COMMON.get(int(status)) == response["description"]:
            continue
        contents = response.get("content", {})
        shown = [
            kind(c["schema"]) + ("" if m == "application/json" else f" ({m})") for m, c in contents.items()
        ]
        yield code(status), ", ".join(shown) or "no body", response["description"]


def _shape(schema: Mapping[str, Any]) -> str:
    rows = list(_fields(schema, ""))
    return f"{kind(schema)}\n\n{_table_of(rows)}" if rows and "$ref" not in schema else kind(schema)


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    parts = [f"### {name}"]
    if about := schema.get("description"):
        parts.append(about)
    rows = list(_fields(schema, name))
    parts.append(_table_of(rows) if rows else f"Is {kind(schema)}.")
    return "\n\n".join(parts) + "\n"


def _table_of(rows: list[tuple[str, str, str, str]]) -> str:
    return table(["field", "is", "default", "what it is"], rows)


def _fields(schema: Mapping[str, Any], owner: str, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """The fields of an object and, with dots, of the objects in it."""
    required = schema.get("required", ())
    for name, inner in schema.get("properties", {}).items():
        shown = code(prefix + name) + (" (required)" if name in required else "")
        yield shown, kind(inner), _default(inner), _about(owner, name, inner).strip()
        for variant in (inner, *inner.get("anyOf", ())):
            yield from _fields(variant, name, f"{prefix}{name}.")


def kind(schema: Mapping[str, Any]) -> str:
    """Return in words what a schema takes."""
    match schema:
        case {"$ref": ref}:
            name = ref.rpartition("/")[2]
            return f"[{name}](#{anchor(name)})"
        case {"const": value} | {"enum": [value]}:
            return code(json.dumps(value))
        case {"enum": values}:
            return ", ".join(code(json.dumps(value)) for value in values)
        case {"anyOf": variants}:
            return " or ".join(kind(variant) for variant in variants)
        case {"type": [*types]}:
            return " or ".join(kind({**schema, "type": one}) for one in types)
        case {"type": "array", "items": items}:
            return f"list of {kind(items)}"
        case {"type": "object", "additionalProperties": dict(inner)} if inner:
            return f"object of {kind(inner)}"
        case {"type": "integer" | "number" as word}:
            return {"integer": "whole number", "number": "number"}[word] + _bounds(schema)
        case {"type": "string"}:
            return f"text like {code(schema['pattern'])}" if "pattern" in schema else "text"
        case {"type": word}:
            return {"array": "list", "boolean": "true or false"}.get(word, word)
        case _:
            return "anything"


def _bounds(schema: Mapping[str, Any]) -> str:
    bounds = (
        ("from", schema.get("minimum")),
        ("above", schema.get("exclusiveMinimum")),
        ("to", schema.get("maximum")),
    )
    return "".join(f" {word} {bound:g}" for word, bound in bounds if bound is not None)


def _default(schema: Mapping[str, Any]) -> str:
    return code(json.dumps(schema["default"])) if "default" in schema else ""
