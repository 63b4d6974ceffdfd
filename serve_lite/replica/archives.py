"""Unpacking an archive that may be anything: nothing of it lands outside its folder, and its size is bounded.

Refused as a whole: names that lead elsewhere, links, devices, encrypted members, and more content than allowed. The
sizes that an archive tells of itself are not believed; what is written is counted.
"""

from __future__ import annotations

import lzma
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from serve_lite.replica.downloads import download
from serve_lite.replica.preparation_error import PreparationError
from serve_lite.state.environment import Archive, without_credentials
from serve_lite.wire.spawning import ArchiveLimits, Prepared

_CONTENT = "content"
_PIECE = 1 << 20
_ENCRYPTED = 0x1  #: flag of a member

#: What `zipfile` raises for a file that is damaged, or packed in a way that it does not know.
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    ValueError,
)


def prepare_archive(archive: Archive, making: Path, limits: ArchiveLimits) -> Prepared:
    """Unpack into `making` and return which folder in it is the working directory, or to be imported from.

    Raises:
        PreparationError: the archive cannot be had or is not one to unpack.
        OSError: it cannot be written.
    """
    if archive.uri.startswith(os.sep):
        file = Path(archive.uri)
        _check_unchanged(file, archive)
    else:
        file = making / "archive.zip"
        download(archive.uri, file, archive.sha256, limits)
    shown = without_credentials(archive.uri).partition("?")[0]
    content = making / _CONTENT
    content.mkdir()
    unpack(file, content, limits, shown)
    if file.parent == making:
        file.unlink()
    root = _root(content, is_module=archive.is_module)
    return Prepared(path=str(root.relative_to(making)))


def unpack(file: Path, target: Path, limits: ArchiveLimits, shown: str) -> None:
    """Unpack the zip file `file` into the empty folder `target`; errors call it `shown`.

    Raises:
        PreparationError: it is no zip file, or holds what is refused.
        OSError: it cannot be written.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > limits.files:
                raise PreparationError(
                    f"{shown} holds {len(members)} files and folders, more than {limits.files}; "
                    "SERVE_LITE_ARCHIVE_MAX_FILES of the instance allows more."
                )
            for member in members:  # all before the first is written
                _check_member(member, shown)
            room = limits.unpacked_bytes
            for member in members:
                room -= _extract(archive, member, target, room, shown, limits)
    except _UNREADABLE as error:
        raise PreparationError(f"{shown} is not a zip file that can be read: {error}.") from error


def _check_member(member: zipfile.ZipInfo, shown: str) -> None:
    name = member.orig_filename
    parts = name.rstrip("/").split("/")
    if name.startswith("/") or "\\" in name or "\0" in name or (len(name) > 1 and name[1] == ":"):
        raise PreparationError(f"{shown} holds {name!r}, which is not a path relative to the archive.")
    if any(part in ("", ".", "..") for part in parts):
        raise PreparationError(f"{shown} holds {name!r}, a path that may lead out of the archive's folder.")
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "a special file"
        raise PreparationError(
            f"{shown} holds {name!r}, {kind}; only files and folders are unpacked. Put the file itself there."
        )
    if member.flag_bits & _ENCRYPTED:
        raise PreparationError(
            f"{shown} holds {name!r}, which is encrypted; there is no way to give a password."
        )


def _extract(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    target: Path,
    room: int,
    shown: str,
    limits: ArchiveLimits,
) -> int:
    """Write one member and return its size in bytes."""
    path = target.joinpath(*member.filename.rstrip("/").split("/"))
    try:
        if member.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            return 0
        path.parent.mkdir(parents=True, exist_ok=True)
        size = 0
        with archive.open(member) as source, path.open("xb") as file:
            while piece := source.read(_PIECE):
                size += len(piece)
                if size > room:
                    raise PreparationError(
                        f"{shown} holds more than {limits.unpacked_bytes} bytes when it is unpacked; "
                        "SERVE_LITE_ARCHIVE_MAX_UNPACKED_BYTES of the instance allows more."
                    )
                file.write(piece)
    except (FileExistsError, NotADirectoryError) as error:
        raise PreparationError(
            f"{shown} holds {member.filename!r} twice, or as a file and a folder."
        ) from error
    except RuntimeError as error:  # zipfile's word for a password that is missing
        raise PreparationError(
            f"{shown} holds {member.filename!r}, which cannot be read: {error}."
        ) from error
    if (member.external_attr >> 16) & stat.S_IXUSR:
        path.chmod(0o700)
    return size


def _root(content: Path, *, is_module: bool) -> Path:
    """Return the folder that matters: a single one at the top stands for the whole, as in GitHub's archives.

    For modules it does not if it is a package, since then it is to be imported by its name.
    """
    entries = list(content.iterdir())
    if len(entries) != 1 or not entries[0].is_dir():
        return content
    if is_module and (entries[0] / "__init__.py").exists():
        return content
    return entries[0]


def _check_unchanged(file: Path, archive: Archive) -> None:
    try:
        found = file.stat()
    except OSError as error:
        raise PreparationError(f"{archive.uri} cannot be read: {error.strerror}.") from error
    if (found.st_size, found.st_mtime_ns) != (archive.size, archive.mtime_ns):
        raise PreparationError(
            f"{archive.uri} has changed since the application was deployed. Deploy again to have the new one."
        )
