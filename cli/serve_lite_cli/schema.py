"""`serve schema`: the JSON Schema of config files."""

from __future__ import annotations

import json

from serve_lite.document_schema import document_schema


def command() -> None:
    """Print the JSON Schema of config files, for editors that check while you type."""
    print(json.dumps(document_schema(), indent=2))
