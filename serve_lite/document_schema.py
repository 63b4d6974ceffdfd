"""The JSON Schema of configuration documents, for editors and for whoever writes them with a program.

Made of the same tables that check a document (`schema.py`, `options.py`, `config.py`), so it cannot drift from them.
What those check beyond single values is only partly in it: a document that fits may still be refused.
"""

from __future__ import annotations

from typing import Any

from serve_lite import __version__
from serve_lite.checks import fields_schema, schema_of, text
from serve_lite.options import ALIASES, OPTIONS
from serve_lite.schema import APPLICATION_FIELDS, DEPLOY_FIELDS, NOTE_PREFIX

_NOTES: dict[str, Any] = {"patternProperties": {f"^{NOTE_PREFIX}": {}}}
#: Only for a document that is one application.
_ONLY_SINGLE = ("host", "port")


def document_schema() -> dict[str, Any]:
    """Return the schema: a document has `applications`, or is a single application with an `import_path`."""
    listed = {name: check for name, check in APPLICATION_FIELDS.items() if name not in _ONLY_SINGLE}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"serve-lite {__version__}: config file",
        "anyOf": [
            fields_schema(
                DEPLOY_FIELDS, required=["applications"], description="Several applications.", **_NOTES
            ),
            fields_schema(
                APPLICATION_FIELDS, required=["import_path"], description="A single application.", **_NOTES
            ),
        ],
        "$defs": {
            "application": fields_schema(listed, required=["import_path"], description="One application."),
            "deployment": _deployment(),
        },
    }


def _deployment() -> dict[str, Any]:
    schema = fields_schema(
        {"name": text(empty=False), **OPTIONS},
        required=["name"],
        description="Options of one deployment; they win over those in the code.",
    )
    for old, new in ALIASES.items():
        schema["properties"][old] = schema_of(OPTIONS[new]) | {"deprecated": True}
    number_and_scaling = {"num_replicas": {"type": "integer"}, "autoscaling_config": {"type": "object"}}
    return schema | {"not": {"properties": number_and_scaling, "required": list(number_and_scaling)}}
