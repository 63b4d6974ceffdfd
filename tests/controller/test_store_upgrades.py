"""State files of older releases, of newer ones, and such that are broken: kept, or refused and left as they are."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve_lite.controller.store import ReplicaRow, Store
from serve_lite.controller.store_file import SCHEMA_VERSION
from serve_lite.exceptions import InstanceError
from tests.controller import freeze_store
from tests.controller.freeze_store import FOLDER, GOAL, ROWS, fill, load

FROZEN = sorted(path.stem for path in FOLDER.glob("*.sql"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def without_epoch(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "epoch"}


def assert_holds(found: Any, expected: Any, where: str = "the store") -> None:
    """Fail unless `found` has everything that `expected` has; a later release may know more of it."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), where
        for key, value in expected.items():
            assert key in found, f"{where} lost {key}"
            assert_holds(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert isinstance(found, list) and len(found) == len(expected), where
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_holds(one, other, f"{where}[{i}]")
    else:
        assert found == expected, where


def test_there_is_a_frozen_file_of_every_schema() -> None:
    assert [f"schema-{number}" for number in range(1, SCHEMA_VERSION + 1)] == FROZEN


@pytest.mark.parametrize("name", FROZEN)
async def test_a_file_of_an_older_release_gives_the_same_goal_history_and_events(
    name: str, path: Path
) -> None:
    load((FOLDER / f"{name}.sql").read_text(), path)
    expected = json.loads((FOLDER / f"{name}.json").read_text())
    found = await freeze_store.read(path)
    assert_holds(without_epoch(found), without_epoch(expected))
    again = await freeze_store.read(path)  # and what was upgraded is read like any other
    assert without_epoch(again) == without_epoch(found)
    assert again["epoch"] == found["epoch"] + 1


@pytest.mark.parametrize("name", FROZEN)
async def test_a_file_of_an_older_release_can_be_worked_with(name: str, path: Path) -> None:
    load((FOLDER / f"{name}.sql").read_text(), path)
    async with Store(path) as store:
        await store.save_goal(GOAL)
        await store.plan_replica(ROWS[0])
        assert [past.revision for past in await store.revisions("shop")] == [4, 3, 1]
    async with Store(path) as store:
        assert store.stored.goal == GOAL


async def test_a_file_that_is_upgraded_is_copied_first_and_the_old_release_could_read_the_copy(
    path: Path,
) -> None:
    load((FOLDER / "schema-1.sql").read_text(), path)
    async with Store(path):
        pass
    assert version_of(path) == SCHEMA_VERSION
    copy = path.with_name("state.db.schema-1")
    assert version_of(copy) == 1
    assert copy.stat().st_mode & 0o077 == 0
    rows = [
        one.execute("SELECT * FROM apps").fetchall() for one in (sqlite3.connect(copy), sqlite3.connect(path))
    ]
    assert rows[0] == rows[1] != []


async def test_an_upgrade_that_fails_leaves_the_file_of_the_old_release(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve_lite.controller import store_file

    load((FOLDER / "schema-1.sql").read_text(), path)
    before = content_of(path)
    broken = (*store_file.STEPS, "DELETE FROM apps; SELECT no_such_function();")
    monkeypatch.setattr(store_file, "STEPS", broken)
    monkeypatch.setattr(store_file, "SCHEMA_VERSION", len(broken))
    with pytest.raises(InstanceError, match="no_such_function"):
        await Store(path).__aenter__()
    assert version_of(path) == SCHEMA_VERSION  # the steps before it are done, and that one is not at all
    assert content_of(path) == before
    monkeypatch.undo()
    assert list((await freeze_store.read(path))["apps"]) == ["default", "shop"]


def version_of(path: Path) -> int:
    return int(sqlite3.connect(path).execute("PRAGMA user_version").fetchone()[0])


def content_of(path: Path) -> list[Any]:
    return sqlite3.connect(path).execute("SELECT * FROM apps").fetchall()


# --- what is refused -----------------------------------------------------------------------------


def of_a_newer_release(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    database.close()


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def overwritten(path: Path) -> None:
    path.write_bytes(b"this is no database, it is far too short and all wrong" * 100)


def overwritten_inside(path: Path) -> None:
    """Damage a page that nobody reads when the store is opened."""
    database = sqlite3.connect(path)
    (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'revisions'").fetchone()
    (size,) = database.execute("PRAGMA page_size").fetchone()
    database.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)


def of_another_program(path: Path) -> None:
    path.unlink()
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE songs (title TEXT)")
    database.close()


def with_values_of_nobody(path: Path) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("UPDATE apps SET goal = X'C1FF' WHERE name = 'shop'")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


BREAKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "of a newer release": (of_a_newer_release, "newer serve-lite"),
    "cut short": (cut_short, "is damaged.*move it away"),
    "emptied": (emptied, "is damaged: it is empty.*move it away"),
    "overwritten": (overwritten, "is damaged: file is not a database.*move it away"),
    "overwritten inside": (overwritten_inside, "is damaged.*move it away"),
    "of another program": (of_another_program, "is damaged: it is a database of something else"),
    "with values of nobody": (with_values_of_nobody, "is damaged.*move it away"),
}


@pytest.mark.parametrize(("spoil", "said"), BREAKS.values(), ids=BREAKS)
async def test_a_file_that_cannot_be_understood_is_refused_and_left_as_it_is(
    spoil: Callable[[Path], None], said: str, path: Path
) -> None:
    await fill(path)
    spoil(path)
    before = path.read_bytes()
    for _ in range(2):  # the first try must not make the second one succeed
        with pytest.raises(InstanceError, match=f"(?s){said}"):
            await Store(path).__aenter__()
        assert path.read_bytes() == before


async def test_half_of_a_state_file_is_not_taken_for_none(path: Path) -> None:
    path.with_name("state.db-wal").write_bytes(b"pages that were not yet in the file")
    with pytest.raises(InstanceError, match=r"is missing, but state\.db-wal"):
        await Store(path).__aenter__()
    assert not path.exists()


async def test_a_start_that_was_cut_short_does_not_stop_the_next_one(path: Path) -> None:
    path.with_name("state.db.new").write_bytes(b"half of a")
    async with Store(path) as store:
        assert store.stored.goal.apps == {}
        await store.plan_replica(
            ReplicaRow(id="a#b#c", deployment=ROWS[0].deployment, version="", settings="")
        )
    assert os.listdir(path.parent) == ["state.db"]
