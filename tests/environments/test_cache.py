"""Prepared parts on the disk: which are found, which removed; and the settings of an instance about them."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import msgspec
import pytest

from serve_lite.controller.environment_cache import LATELY_S, EnvironmentCache
from serve_lite.controller.environments import KEPT, settings_from, with_prepared
from serve_lite.exceptions import InvalidConfigError
from serve_lite.state.environment import Archive, Interpreter, Packages
from serve_lite.state.goal import CodeEnvironment
from serve_lite.wire.spawning import MAKING, PREPARED_FILE, ArchiveLimits, Prepared

ARCHIVE = Archive(uri="https://h/a.zip")


def put(cache: EnvironmentCache, name: str, *, age_s: float = 0.0) -> Path:
    """Put a prepared archive there, used last so long ago."""
    folder = Path(cache.folder, name)
    (folder / "content").mkdir(parents=True)
    (folder / PREPARED_FILE).write_bytes(msgspec.json.encode(Prepared(path="content")))
    at = time.time() - age_s
    os.utime(folder, (at, at))
    return folder


def test_what_is_there_is_found_until_it_is_broken(tmp_path: Path) -> None:
    cache = EnvironmentCache(str(tmp_path / "environments"), 0)
    key, nothing = cache.find(ARCHIVE)
    assert nothing is None
    folder = put(cache, key)
    assert cache.find(ARCHIVE) == (key, Prepared(path=str(folder / "content")))
    shutil.rmtree(folder / "content")
    assert cache.find(ARCHIVE) == (key, None)
    cache.discard(key)
    assert os.listdir(cache.folder) == []


def test_an_interpreter_that_changes_is_another_one(tmp_path: Path) -> None:
    cache = EnvironmentCache(str(tmp_path), 0)
    python = tmp_path / "python"
    python.write_text("one")
    first = cache.key_of(Interpreter(python=str(python)))
    assert cache.key_of(Interpreter(python=str(python))) == first
    assert cache.key_of(Interpreter(python=str(python), packages=Packages(installer="pip"))) != first
    python.write_text("two!")
    assert cache.key_of(Interpreter(python=str(python))) != first


def test_only_a_few_of_those_are_kept_that_nothing_uses(tmp_path: Path) -> None:
    cache = EnvironmentCache(str(tmp_path), 2)
    old = LATELY_S * 2
    for i in range(4):
        put(cache, f"unused{i}", age_s=old + i)
    put(cache, "lately", age_s=LATELY_S / 2)
    put(cache, cache.key_of(ARCHIVE), age_s=old * 9)
    (tmp_path / f"other{MAKING}1").mkdir()
    cache.prune([ARCHIVE])
    assert set(os.listdir(tmp_path)) == {"lately", "unused0", cache.key_of(ARCHIVE), f"other{MAKING}1"}
    assert cache.half_made() == [f"other{MAKING}1"]


def test_prepared_parts_take_the_places_that_stood_for_them() -> None:
    interpreter = Interpreter(packages=Packages(installer="pip", requirements=("a",)))
    environment = CodeEnvironment(
        cwd=ARCHIVE.place, sys_path=("/x", ARCHIVE.place), env_vars={"A": "1"}, parts=(ARCHIVE, interpreter)
    )
    prepared = {
        ARCHIVE: Prepared(path="/e/c"),
        interpreter: Prepared(python="/v/bin/python", scripts="/v/bin"),
    }
    assert with_prepared(environment, prepared, search_path="/bin") == CodeEnvironment(
        cwd="/e/c",
        sys_path=("/x", "/e/c"),
        env_vars={"A": "1", "PATH": "/v/bin:/bin"},
        python="/v/bin/python",
    )


def test_an_instance_may_have_other_limits() -> None:
    assert settings_from({}) == (ArchiveLimits(), KEPT)
    limits, kept = settings_from({"SERVE_LITE_ARCHIVE_MAX_FILES": "3", "SERVE_LITE_KEPT_ENVIRONMENTS": "0"})
    assert (limits.files, kept) == (3, 0)
    for value in ("0", "-1", "many", "1.5"):
        with pytest.raises(InvalidConfigError, match="SERVE_LITE_ARCHIVE_MAX_BYTES must be a whole number"):
            settings_from({"SERVE_LITE_ARCHIVE_MAX_BYTES": value})


def test_without_uv_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from serve_lite.replica.installing import install
    from serve_lite.replica.preparation_error import PreparationError

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "uv", None)
    with pytest.raises(PreparationError, match="-m pip install uv`, or list the packages under pip"):
        install(Packages(installer="uv", requirements=("a",)), sys.executable, tmp_path, tmp_path / "final")
