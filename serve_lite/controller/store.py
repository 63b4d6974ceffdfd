"""What outlives the daemon: the goal, the replicas, how starts went, and what happened. SQLite, one file.

All statements run in one worker thread, in the order they were asked for, so the loop never waits for a disk and
a later write cannot overtake an earlier one. A write that must have happened before something else is awaited
(`save_goal`, `plan_replica`); the others are queued, and a failure of one of them is logged and survived: a full
disk must not take the daemon down. What is known about replicas and deployments is then owed, and written with the
first write that finds room, so that the next daemon knows what this one did.

Values are msgpack of the frozen structs, which only ever gain fields with defaults, so a newer release reads an
older one's file. The numbered schema in `store_file.py` is for what that cannot express.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from serve_lite.controller.store_file import damaged, open_database
from serve_lite.exceptions import InstanceError
from serve_lite.state.goal import AppGoal, CapacityDirection, Goal
from serve_lite.state.ids import DeploymentId, ReplicaId
from serve_lite.state.observed import DeploymentView
from serve_lite.state.resources import NO_ALLOTMENT, Allotment

logger = logging.getLogger(__name__)

T = TypeVar("T")

KEPT_EVENTS = 2000  #: lines of history
KEPT_REVISIONS = 10  #: of each application

_encode = msgspec.msgpack.Encoder().encode


class ReplicaRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One replica as a later daemon must know it. Written before its process is started."""

    id: ReplicaId
    deployment: DeploymentId
    version: str
    settings: str
    rank: int = 0
    pid: int = 0  #: 0 until its process exists
    start_time: int = 0  #: tells the process from a later one with the same pid (processes.py)
    was_ready: bool = False  #: the user's object was built; it may have requests
    wall_time: float = 0.0
    log_file: str = ""
    phases: dict[str, float] = {}  #: seconds that each phase of its start took; once it was ready
    allotment: Allotment = NO_ALLOTMENT  #: what it has of the machine


class EventRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of history."""

    at: float  #: wall clock
    subject: str  #: id of a replica or deployment, or name of an application
    text: str


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was found when the store was opened."""

    goal: Goal
    deployments: dict[DeploymentId, DeploymentView]
    replicas: tuple[ReplicaRow, ...]
    epoch: int  #: of this opening: one more than the last daemon's
    node_id: str  #: names this instance for as long as its directory lives


class _GoalHead(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The goal without its applications, which have a table of their own."""

    revision: int = 0
    document: dict[str, Any] | None = None
    target_capacity: float | None = None
    capacity_direction: CapacityDirection = None
    is_shutting_down: bool = False


class Store:
    """The database of one instance.

    Lifetime: `async with Store(path) as store:`. Opening creates the file, takes the next epoch and reads
    everything (`stored`); closing waits for queued writes. One daemon at a time: the keeper holds the lock, and in an
    upgrade tells the next daemon to open it when the last one has closed it.
    """

    stored: Stored

    def __init__(self, path: str | Path, *, newer_than: int = 0) -> None:
        self._path = os.fspath(path)
        self._newer_than = newer_than  #: an epoch that may have been taken without having been stored
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._db: sqlite3.Connection
        self._apps: dict[str, AppGoal] = {}  #: as in the file
        self._owed: dict[object, Callable[[], object]] = {}  #: writes that failed, by what they are about

    async def __aenter__(self) -> Store:
        try:
            self.stored = await self._ask(self._open)
        except BaseException:
            self._worker.shutdown(wait=False)
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._queue(lambda: None)  # the last chance of what is owed
        # Shielded by nature: the worker finishes what is queued whether or not anyone waits.
        self._worker.submit(self._close)
        await asyncio.shield(asyncio.to_thread(self._worker.shutdown, True))

    async def save_goal(self, goal: Goal) -> None:
        """Store the goal. Returns when it is on the disk; raises `InstanceError` if it cannot be."""
        try:
            await self._ask(lambda: self._save_goal(goal))
        except sqlite3.Error as error:
            raise InstanceError(
                f"The change was not made: it could not be stored in {self._path!r}: {error}."
            ) from error

    async def plan_replica(self, row: ReplicaRow) -> None:
        """Store that this replica will be started; to be awaited before it is.

        Raises `InstanceError` if it cannot be stored: a process nobody knows of must not be started.
        """
        try:
            await self._ask(lambda: self._put_replica(row))
        except sqlite3.Error as error:
            raise InstanceError(f"Cannot store a new replica in {self._path!r}: {error}.") from error

    def put_replica(self, row: ReplicaRow) -> None:
        """Queue the new state of a replica's row."""
        self._queue(lambda: self._put_replica(row), about=row.id)

    def drop_replica(self, replica: ReplicaId) -> None:
        """Queue the removal of a replica whose process is gone."""
        self._queue(lambda: self._run("DELETE FROM replicas WHERE id = ?", replica), about=replica)

    def put_deployment(self, deployment: DeploymentId, view: DeploymentView | None) -> None:
        """Queue what is known about a deployment; None forgets it."""
        if view is None:
            sql = "DELETE FROM deployments WHERE app = ? AND name = ?"
            self._queue(lambda: self._run(sql, deployment.app_name, deployment.name), about=deployment)
            return
        blob = _encode(view)
        sql = "INSERT OR REPLACE INTO deployments VALUES (?, ?, ?)"
        self._queue(lambda: self._run(sql, deployment.app_name, deployment.name, blob), about=deployment)

    def add_events(self, rows: Iterable[EventRow]) -> None:
        """Queue lines of history."""
        values = [(row.at, row.subject, row.text) for row in rows]
        if values:
            self._queue(lambda: self._add_events(values))

    async def recent_events(self, limit: int = 100) -> list[EventRow]:
        """Return the last lines of history, newest first."""
        return await self._ask(lambda: self._recent_events(limit))

    async def revisions(self, app: str) -> list[AppGoal]:
        """Return what an application was built as and deployed, newest first; as far back as is kept."""
        sql = "SELECT goal FROM revisions WHERE app = ? ORDER BY revision DESC"
        rows = await self._ask(lambda: self._db.execute(sql, (app,)).fetchall())
        return [msgspec.msgpack.decode(blob, type=AppGoal) for (blob,) in rows]

    async def flush(self) -> None:
        """Return when everything queued so far is written."""
        await self._ask(lambda: None)

    # --- in the worker thread ---

    def _open(self) -> Stored:
        self._db = open_database(self._path)
        try:
            stored = self._read()
            with self._transaction():  # only now: a file that cannot be read is left as it is
                self._set_meta("epoch", str(stored.epoch).encode())
                self._set_meta("node_id", stored.node_id.encode())
        except sqlite3.OperationalError as error:
            self._db.close()
            raise InstanceError(f"Cannot use the state file {self._path!r}: {error}.") from error
        except (sqlite3.Error, msgspec.MsgspecError, ValueError) as error:
            self._db.close()
            raise damaged(self._path, str(error)) from error
        return stored

    def _read(self) -> Stored:
        epoch = max(int(self._meta("epoch", b"0")), self._newer_than) + 1
        node_id = self._meta("node_id", b"").decode() or os.urandom(14).hex()
        head = msgspec.msgpack.decode(self._meta("goal", _encode(_GoalHead())), type=_GoalHead)
        for name, blob in self._db.execute("SELECT name, goal FROM apps ORDER BY rowid"):
            self._apps[name] = msgspec.msgpack.decode(blob, type=AppGoal)
        return Stored(
            goal=Goal(apps=dict(self._apps), **msgspec.structs.asdict(head)),
            deployments={
                DeploymentId(name, app): msgspec.msgpack.decode(blob, type=DeploymentView)
                for app, name, blob in self._db.execute("SELECT app, name, view FROM deployments")
            },
            replicas=tuple(
                msgspec.msgpack.decode(blob, type=ReplicaRow)
                for (blob,) in self._db.execute("SELECT row FROM replicas")
            ),
            epoch=epoch,
            node_id=node_id,
        )

    def _save_goal(self, goal: Goal) -> None:
        head = _GoalHead(
            revision=goal.revision,
            document=goal.document,
            target_capacity=goal.target_capacity,
            capacity_direction=goal.capacity_direction,
            is_shutting_down=goal.is_shutting_down,
        )
        gone = self._apps.keys() - goal.apps.keys()
        changed = {name: app for name, app in goal.apps.items() if self._apps.get(name) is not app}
        self._db.execute("PRAGMA synchronous=FULL")
        try:
            with self._transaction():
                self._set_meta("goal", _encode(head))
                for name in gone:
                    self._run("DELETE FROM apps WHERE name = ?", name)
                    self._run("DELETE FROM revisions WHERE app = ?", name)
                for name, app in changed.items():
                    blob = _encode(app)
                    # An update in place keeps the order in which applications came.
                    self._run(
                        "INSERT INTO apps VALUES (?1, ?2, ?3) "
                        "ON CONFLICT (name) DO UPDATE SET revision = ?2, goal = ?3",
                        name,
                        app.revision,
                        blob,
                    )
                    self._keep_revision(app, blob)
        finally:
            self._db.execute("PRAGMA synchronous=NORMAL")
        self._apps = dict(goal.apps)

    def _keep_revision(self, app: AppGoal, blob: bytes) -> None:
        """Keep what can be gone back to: an application that was built."""
        if app.is_building or app.build_error or app.is_deleting or not app.deployments:
            return
        self._run("INSERT OR REPLACE INTO revisions VALUES (?, ?, ?)", app.name, app.revision, blob)
        self._run(
            "DELETE FROM revisions WHERE app = ?1 AND revision <> ?3 AND revision NOT IN "
            "(SELECT revision FROM revisions WHERE app = ?1 ORDER BY revision DESC LIMIT ?2)",
            app.name,
            KEPT_REVISIONS,
            app.proven,  # what a rollback would go back to, however many have failed since
        )

    def _put_replica(self, row: ReplicaRow) -> None:
        self._run("INSERT OR REPLACE INTO replicas VALUES (?, ?)", row.id, _encode(row))

    def _add_events(self, values: list[tuple[float, str, str]]) -> None:
        with self._transaction():
            self._db.executemany("INSERT INTO events (at, subject, text) VALUES (?, ?, ?)", values)
            self._run("DELETE FROM events WHERE number <= (SELECT MAX(number) FROM events) - ?", KEPT_EVENTS)

    def _recent_events(self, limit: int) -> list[EventRow]:
        rows = self._db.execute("SELECT at, subject, text FROM events ORDER BY number DESC LIMIT ?", (limit,))
        return [EventRow(at=at, subject=subject, text=text) for at, subject, text in rows]

    def _meta(self, name: str, default: bytes) -> bytes:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return bytes(row[0]) if row else default

    def _set_meta(self, name: str, value: bytes) -> None:
        self._run("INSERT OR REPLACE INTO meta VALUES (?, ?)", name, value)

    def _run(self, sql: str, *values: object) -> None:
        self._db.execute(sql, values)

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)

    def _close(self) -> None:
        self._db.close()

    def _write_or_owe(self, work: Callable[[], object], about: object) -> None:
        if about is not None:
            self._owed.pop(about, None)  # the newer word is enough
        try:
            while self._owed:
                key = next(iter(self._owed))
                self._owed[key]()
                del self._owed[key]
            work()
        except sqlite3.Error:
            if about is not None:
                self._owed[about] = work
            raise

    # --- on the loop ---

    async def _ask(self, work: Callable[[], T]) -> T:
        # Once begun it runs to its end, cancelled or not: a statement cannot be taken back halfway.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._worker, work))

    def _queue(self, work: Callable[[], object], *, about: object = None) -> None:
        """Have something written. If that fails, what it is `about` is still owed; None: it is only history."""
        self._worker.submit(self._write_or_owe, work, about).add_done_callback(_log_failure)


class _Transaction:
    """BEGIN, then COMMIT or ROLLBACK."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, failure: type[BaseException] | None, *exc_info: object) -> None:
        try:
            if failure is None:
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:  # some errors have rolled it back already
                self._db.execute("ROLLBACK")


def _log_failure(future: Future[Any]) -> None:
    error = future.exception()
    if error is not None:
        logger.error("the state could not be written: %s", error)
