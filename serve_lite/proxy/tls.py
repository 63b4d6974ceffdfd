"""Certificates of the doors: read once at the start, and again when they are told that the files have changed."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Protocol

from serve_lite.exceptions import InvalidConfigError


class TlsFiles(Protocol):
    """The options that name the files."""

    @property
    def ssl_certfile(self) -> str | None: ...
    @property
    def ssl_keyfile(self) -> str | None: ...
    @property
    def ssl_keyfile_password(self) -> str | None: ...
    @property
    def ssl_ca_certs(self) -> str | None: ...


class Certificates:
    """The TLS context of one door, for connections that come.

    Args:
        protocols: for ALPN, the preferred one first.

    Raises:
        InvalidConfigError: a file cannot be read or does not hold what it should.
    """

    def __init__(self, files: TlsFiles, protocols: Sequence[str]) -> None:
        self._files = files
        self.context = _new_context()
        self.context.set_alpn_protocols(list(protocols))
        _load(self.context, files)

    def reload(self) -> None:
        """Read the files again, for connections that come from now on; those that are open stay as they are.

        Authorities for client certificates are added; those that were taken out of their file are trusted until
        the next start.

        Raises:
            InvalidConfigError: as at the start; then what was read before stays in force.
        """
        _load(_new_context(), self._files)  # a context that takes half of a pair would serve nobody
        _load(self.context, self._files)


def certificates_of(files: TlsFiles, protocols: Sequence[str]) -> Certificates | None:
    """Return the certificates of a door, None if it has no TLS."""
    if files.ssl_certfile is None or files.ssl_keyfile is None:
        return None
    return Certificates(files, protocols)


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    return context


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    certfile, keyfile, authorities = files.ssl_certfile, files.ssl_keyfile, files.ssl_ca_certs
    assert certfile is not None
    try:
        # Without a password here, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certfile, keyfile, password=files.ssl_keyfile_password or "")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise InvalidConfigError(
            f"TLS cannot be served with ssl_certfile {certfile!r} and ssl_keyfile {keyfile!r}: {_said(error)}. "
            "They must be a PEM certificate chain and its key, readable, with the right ssl_keyfile_password."
        ) from error
    if authorities is None:
        return
    try:
        context.load_verify_locations(authorities)
    except (OSError, ValueError) as error:
        raise InvalidConfigError(
            f"ssl_ca_certs {authorities!r} cannot be used: {_said(error)}. It must be a file of PEM certificates."
        ) from error
    context.verify_mode = ssl.CERT_REQUIRED


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
