from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import msgspec
import pytest

from serve_lite.controller.store import KEPT_REVISIONS, EventRow, ReplicaRow, Store
from serve_lite.exceptions import InstanceError
from serve_lite.state.ids import DeploymentId
from serve_lite.state.observed import DeploymentView, StartRecord
from tests.policy.cases import MODEL, application, goal_of, wanted

ROW = ReplicaRow(id="shop#Model#aaaaaaaa", deployment=MODEL, version="v1", settings="s1")
OTHER = ReplicaRow(id="shop#Model#bbbbbbbb", deployment=MODEL, version="v1", settings="s1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


async def test_a_new_daemon_reads_everything_that_the_last_one_stored(path: Path) -> None:
    goal = goal_of(application(wanted("v1", 2)))
    view = DeploymentView(version="v1", settings="s1", starts=StartRecord(failures=2, error="boom"))
    async with Store(path) as store:
        first = store.stored
        await store.save_goal(goal)
        await store.plan_replica(ROW)
        store.put_deployment(MODEL, view)
    async with Store(path) as store:
        assert store.stored.goal == goal
        assert store.stored.replicas == (ROW,)
        assert store.stored.deployments == {MODEL: view}
        assert store.stored.epoch == first.epoch + 1
        assert store.stored.node_id == first.node_id


async def test_what_is_removed_is_gone_for_the_next_daemon(path: Path) -> None:
    async with Store(path) as store:
        await store.save_goal(goal_of(application(wanted()), application(name="other")))
        await store.plan_replica(ROW)
        store.put_deployment(DeploymentId("Model", "shop"), DeploymentView(version="", settings=""))
        await store.save_goal(goal_of(application(name="other")))
        store.drop_replica(ROW.id)
        store.put_deployment(DeploymentId("Model", "shop"), None)
    async with Store(path) as store:
        assert list(store.stored.goal.apps) == ["other"]
        assert store.stored.replicas == ()
        assert store.stored.deployments == {}


async def test_applications_keep_their_order_when_one_is_changed(path: Path) -> None:
    apps = [application(name=n) for n in ("c", "a", "b")]
    async with Store(path) as store:
        await store.save_goal(goal_of(*apps))
        await store.save_goal(goal_of(application(wanted(), name="c"), *apps[1:]))
    async with Store(path) as store:
        assert list(store.stored.goal.apps) == ["c", "a", "b"]


async def test_a_goal_that_cannot_be_stored_is_an_error_and_changes_nothing(path: Path) -> None:
    goal = goal_of(application(wanted()))
    async with Store(path) as store:
        await store.save_goal(goal)
        blocker = sqlite3.connect(path, isolation_level=None)
        store._db.execute("PRAGMA busy_timeout = 1")
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(InstanceError, match="could not be stored"):
            await store.save_goal(goal_of())
        store.drop_replica("x")  # queued work that fails is logged and survived
        await store.flush()
        blocker.execute("ROLLBACK")
        blocker.close()
        await store.plan_replica(ROW)
    async with Store(path) as store:
        assert list(store.stored.goal.apps) == ["shop"]
        assert store.stored.replicas == (ROW,)


async def test_a_file_of_a_newer_release_is_refused(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 999")
    database.close()
    with pytest.raises(InstanceError, match="newer serve-lite"):
        await Store(path).__aenter__()


async def test_a_damaged_file_is_refused_with_what_to_do(path: Path) -> None:
    path.write_bytes(b"this is no database, it is far too short and all wrong" * 100)
    with pytest.raises(InstanceError, match="move it away"):
        await Store(path).__aenter__()


async def test_the_file_is_for_its_owner_only(path: Path) -> None:
    async with Store(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_history_is_kept_newest_first(path: Path) -> None:
    async with Store(path) as store:
        store.add_events([EventRow(at=float(n), subject="shop", text=f"event {n}") for n in range(3)])
        assert [row.text for row in await store.recent_events(2)] == ["event 2", "event 1"]


async def test_only_the_last_revisions_of_an_application_are_kept_and_none_of_a_removed_one(
    path: Path,
) -> None:
    async with Store(path) as store:
        for revision in range(1, KEPT_REVISIONS + 4):
            app = msgspec.structs.replace(application(wanted()), revision=revision)
            await store.save_goal(goal_of(app))
    async with Store(path) as store:
        kept = [past.revision for past in await store.revisions("shop")]
        assert kept == list(range(KEPT_REVISIONS + 3, 3, -1))
        await store.save_goal(goal_of())
        assert await store.revisions("shop") == []


async def test_what_could_not_be_stored_about_replicas_is_stored_with_the_next_write(path: Path) -> None:
    async with Store(path) as store:
        await store.plan_replica(ROW)
        await store.plan_replica(OTHER)
        blocker = sqlite3.connect(path, isolation_level=None)
        store._db.execute("PRAGMA busy_timeout = 1")
        blocker.execute("BEGIN IMMEDIATE")
        for pid in (1, 2):  # the newest word counts
            store.put_replica(msgspec.structs.replace(ROW, pid=pid))
        store.drop_replica(OTHER.id)
        store.add_events([EventRow(at=1.0, subject="x", text="this is only history")])
        await store.flush()
        blocker.execute("ROLLBACK")
        blocker.close()
        store.add_events([EventRow(at=2.0, subject="x", text="there is room")])
        assert [event.at for event in await store.recent_events()] == [2.0]
        database = sqlite3.connect(path)
        assert database.execute("SELECT id FROM replicas").fetchall() == [(ROW.id,)]
        database.close()
    async with Store(path) as store:
        assert [row.pid for row in store.stored.replicas] == [2]


async def test_what_is_owed_is_stored_at_the_latest_when_the_store_is_closed(path: Path) -> None:
    async with Store(path) as store:
        await store.plan_replica(ROW)
        blocker = sqlite3.connect(path, isolation_level=None)
        store._db.execute("PRAGMA busy_timeout = 1")
        blocker.execute("BEGIN IMMEDIATE")
        store.drop_replica(ROW.id)
        await store.flush()
        blocker.execute("ROLLBACK")
        blocker.close()
    async with Store(path) as store:
        assert store.stored.replicas == ()
