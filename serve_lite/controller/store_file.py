"""The file of the store: made, checked and brought up to date before anybody reads it.

A state file is never replaced by an empty one without a word: one that is damaged, foreign or newer is refused and
left as it is. One of an older release goes through the numbered steps below, each in a transaction of its own, after
a copy of it was put beside it. What is in the tables, and who writes it, is in `store.py`.

A new step goes to the end of `STEPS` and is never changed once released. `tests/controller/freeze_store.py` then
writes down what the new format looks like.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3

from serve_lite.exceptions import InstanceError

logger = logging.getLogger(__name__)

#: SQL that makes the schema of number n out of n - 1; the first makes 1.
STEPS = (
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE apps (name TEXT PRIMARY KEY, revision INTEGER NOT NULL, goal BLOB NOT NULL);
    CREATE TABLE deployments (
        app TEXT NOT NULL, name TEXT NOT NULL, view BLOB NOT NULL, PRIMARY KEY (app, name)
    );
    CREATE TABLE replicas (id TEXT PRIMARY KEY, row BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE events (
        number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL
    );
    """,
    # Some files of number 1 have it already.
    """
    CREATE TABLE IF NOT EXISTS revisions (
        app TEXT NOT NULL, revision INTEGER NOT NULL, goal BLOB NOT NULL, PRIMARY KEY (app, revision)
    );
    """,
)
SCHEMA_VERSION = len(STEPS)

#: What the write-ahead log keeps of its size once its content is in the file: a large deploy leaves no large log.
WAL_BYTES = 1 << 20


def open_database(path: str) -> sqlite3.Connection:
    """Return a connection to the state file, which is made if there is none, and brought up to date if it is old.

    Raises:
        InstanceError: the file is damaged, foreign, or of a newer release, and is as it was; or it cannot be used.
    """
    try:
        if not os.path.exists(path):
            _create(path)
        elif os.path.getsize(path) == 0:
            raise damaged(path, "it is empty, which a state file never is")
        database = _connect(path)
        try:
            _check(database, path)
            _upgrade(database, path)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(f"PRAGMA journal_size_limit={WAL_BYTES}")
            # A commit survives the death of the daemon at once; `save_goal` also waits for the disk.
            database.execute("PRAGMA synchronous=NORMAL")
        except BaseException:
            database.close()
            raise
    except (OSError, sqlite3.OperationalError) as error:  # no permission, no room, in use
        raise InstanceError(f"Cannot use the state file {path!r}: {error}.") from error
    except sqlite3.Error as error:
        raise damaged(path, str(error)) from error
    return database


def damaged(path: str, why: str) -> InstanceError:
    """Return the error for a state file that cannot be read."""
    name = os.path.basename(path)
    return InstanceError(
        f"The state file {path!r} is damaged: {why}. It was left as it is, and no application was started. Put a "
        f"good copy in its place; or move it away, with {name}-wal and {name}-shm if they are there, to start "
        "without applications, and deploy again."
    )


def _connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)


def _create(path: str) -> None:
    """Make an empty state file; it gets its name when it is whole, so that half of one is never found there."""
    if os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal"):
        raise damaged(path, f"it is missing, but {os.path.basename(path)}-wal, a part of it, is there")
    unready = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(unready)  # of a start that was cut short
    os.close(os.open(unready, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))  # not for other eyes
    with contextlib.closing(_connect(unready)) as database:
        database.execute("PRAGMA journal_mode=OFF")  # it is thrown away if anything goes wrong
        database.execute("PRAGMA synchronous=NORMAL")
        _take_steps(database, 0)
    os.rename(unready, path)


def _check(database: sqlite3.Connection, path: str) -> None:
    """Refuse a file that is not one of ours, or not whole."""
    found = _version(database)
    if found > SCHEMA_VERSION:
        raise InstanceError(
            f"The state file {path!r} was written by a newer serve-lite (schema {found}; this one knows "
            f"{SCHEMA_VERSION}). It was left as it is. Use that version, or another SERVE_LITE_HOME."
        )
    (said,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if said != "ok":
        raise damaged(path, str(said))
    if found == 0:
        raise damaged(path, "it is a database of something else")


def _upgrade(database: sqlite3.Connection, path: str) -> None:
    found = _version(database)
    if found == SCHEMA_VERSION:
        return
    copy = f"{path}.schema-{found}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(copy)  # of an upgrade that was cut short
    os.close(os.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    database.execute("VACUUM INTO ?", (copy,))
    _take_steps(database, found)
    logger.info("brought %s from schema %d to %d; as it was, it is in %s", path, found, SCHEMA_VERSION, copy)


def _take_steps(database: sqlite3.Connection, found: int) -> None:
    for number, step in enumerate(STEPS[found:], found + 1):
        try:
            database.executescript(f"BEGIN IMMEDIATE; {step} PRAGMA user_version = {number}; COMMIT;")
        except sqlite3.Error:
            if database.in_transaction:  # some errors have rolled it back already
                database.execute("ROLLBACK")
            raise


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])
