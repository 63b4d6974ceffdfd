"""The JSON Schema of a `runtime_env`, for editors: its keys, the forms that their values have, and what is not here.

It takes whatever `reading.py` takes, and names the same keys. Whether folders, files and packages exist is no
matter of a schema.
"""

from __future__ import annotations

from typing import Any

from serve_lite.checks import or_null
from serve_lite.runtime_env.reading import CLUSTER_ONLY, REFUSED
from serve_lite.runtime_env.requirements import KEYS
from serve_lite.state.environment import Installer

_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_TEXTS: dict[str, Any] = {"type": "array", "items": _TEXT}
_NOT_NULL: dict[str, Any] = {"not": {"type": "null"}}
_WHERE_CODE_IS = (
    "a local directory, a local .zip file, or the http(s) URL of a .zip file, with #sha256=... if its content is to "
    "be checked"
)
_PYTHON = "Interpreter that the code runs in: its path, or a name on the PATH."


def environment_schema() -> dict[str, Any]:
    """Return the schema of an application's or a deployment's environment."""
    return {
        "type": "object",
        "description": "Where and how the code runs.",
        "properties": {
            "working_dir": or_null(_TEXT)
            | {"description": f"Directory to import from and to run in: {_WHERE_CODE_IS}."},
            "py_modules": or_null(_TEXTS)
            | {"description": f"Modules that can be imported beside it; each is {_WHERE_CODE_IS}."},
            "pip": _packages("pip"),
            "uv": _packages("uv"),
            "python": or_null(_TEXT) | {"description": _PYTHON},
            "py_executable": or_null(_TEXT) | {"description": f"Another name of python. {_PYTHON}"},
            "env_vars": or_null(_variables()) | {"description": "Environment variables; values are texts."},
            **{key: {"description": "Accepted, and without effect on one machine."} for key in CLUSTER_ONLY},
            **{
                key: {"type": "null", "description": f"Does not exist here. {instead}"}
                for key, instead in REFUSED.items()
            },
        },
        "additionalProperties": False,
        "not": {"required": ["pip", "uv"], "properties": {"pip": _NOT_NULL, "uv": _NOT_NULL}},
    }


def _variables() -> dict[str, Any]:
    return {
        "type": "object",
        "propertyNames": {"pattern": "^[^=]+$"},
        "additionalProperties": {"type": "string"},
    }


def _packages(installer: Installer) -> dict[str, Any]:
    keys = KEYS[installer]
    packages: dict[str, Any] = {
        "anyOf": [_TEXTS, _TEXT],
        "description": "A list of requirements, or the path of a requirements file.",
    }
    whole = {
        "type": "object",
        "properties": {
            "packages": packages,
            keys["check"]: {"type": ["boolean", "null"]},
            keys["version"]: or_null(_TEXT) | {"description": f'Of {installer} itself, such as "==24.0".'},
            keys["options"]: or_null({"type": "array", "items": {"type": "string"}}),
        },
        "required": ["packages"],
        "additionalProperties": False,
    }
    return {
        "anyOf": [_TEXTS, _TEXT, whole, {"type": "null"}],
        "description": f"What {installer} installs: a list, the path of a requirements file, or a mapping with more.",
    }
