"""What user code wants around it: folders, archives, packages, an interpreter and variables.

`RuntimeEnv` is a `runtime_env` as it was read (`serve_lite/runtime_env/reading.py`): checked, with absolute paths and
the text of requirement files in it, so that it means the same wherever it is looked at. A *part* is what has to be
prepared before code can run; equal parts are prepared once and shared.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

Installer = Literal["pip", "uv"]

_USER_INFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s\"']*@")
_packer = msgspec.msgpack.Encoder(order="deterministic")


class Archive(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="archive"):
    """A zip file with code. A URL stands for one content for ever; a file for what it was when it was looked at."""

    uri: str  #: http(s) URL, or an absolute path
    sha256: str = ""  #: of a download, in lower case; "": not checked
    is_module: bool = False  #: holds modules to import, not a working directory
    size: int = 0  #: of a local file, in bytes
    mtime_ns: int = 0  #: of a local file

    @property
    def place(self) -> str:
        """What stands in a working directory or a `sys.path` for the folder that this becomes."""
        return f"archive:{digest(self)}"


class Packages(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Packages to install. Two equal values give one environment."""

    installer: Installer
    requirements: tuple[str, ...] = ()  #: lines of a requirements file, paths absolute
    constraints: tuple[str, ...] = ()  #: likewise, of constraint files
    options: tuple[str, ...] = ()  #: further words for the installer
    is_checked: bool = False  #: afterwards, whether what is installed goes together
    version: str = ""  #: of the installer, such as "==24.0"; "": the one that is there
    files: tuple[tuple[str, int, int], ...] = ()  #: local files among the requirements: path, size, mtime_ns
    variables: tuple[tuple[str, str], ...] = ()  #: of the environment, which the installer reads


class Interpreter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="interpreter"):
    """A Python other than the instance's own, or with other packages."""

    python: str = ""  #: absolute path; "": the instance's own
    packages: Packages | None = None


Part = Archive | Interpreter


class RuntimeEnv(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One `runtime_env`. A field that is None (or empty) was not given."""

    working_dir: str | Archive | None = None
    py_modules: tuple[str | Archive, ...] | None = None
    env_vars: dict[str, str] = {}
    python: str = ""
    packages: Packages | None = None


def digest(value: object) -> str:
    """Return a short name for a value's content."""
    import hashlib  # 4 ms that `serve run` can do without

    return hashlib.sha256(_packer.encode(value)).hexdigest()[:24]


def without_credentials(text: str) -> str:
    """Return the text with the user and password of each URL in it taken out."""
    return _USER_INFO.sub(r"\1<redacted>@", text)
