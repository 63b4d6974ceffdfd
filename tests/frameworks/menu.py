"""The frameworks, and what each of them cannot do by itself."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

OLDER = Path(__file__).parents[2] / ".venvs" / "older-fastapi"


class Framework(NamedTuple):
    """One framework's application, in `apps/`."""

    name: str
    module: str
    #: cases that are not for it; "end": its background tasks are tasks of the loop, which nobody waits for
    lacks: frozenset[str] = frozenset()
    calls: bool = False  #: one of its routes calls another deployment
    is_older: bool = False  #: an older release of it
    entry: str = "served"  #: what is deployed of the module
    is_at_root: bool = False  #: it takes no notice of `root_path`, so it cannot be below a prefix

    @property
    def prefix(self) -> str:
        """Where it is served."""
        return "" if self.is_at_root else f"/{self.name}"


MENU = [
    Framework("starlette", "starlette_app"),
    Framework("fastapi", "fastapi_app"),
    Framework("older-fastapi", "fastapi_app", frozenset({"range"}), is_older=True),
    Framework("litestar", "litestar_app", frozenset({"range"}), calls=True),
    Framework("quart", "quart_app", calls=True),
    Framework(
        "django", "django_app", frozenset({"lifespan", "websocket", "range", "background"}), calls=True
    ),
    Framework("flask", "flask_app", frozenset({"lifespan", "websocket", "background"}), calls=True),
    Framework("falcon", "falcon_app", frozenset({"file", "gzip", "binary", "end"}), is_at_root=True),
]
