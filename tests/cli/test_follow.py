"""Following what applications print."""

from __future__ import annotations

from pathlib import Path

from serve_lite.exceptions import InstanceError
from serve_lite_cli.follow import READ_BYTES, LogFollower
from serve_lite_cli.logs import Source, merged


def follow(folder: Path, *apps: str) -> tuple[LogFollower, list[tuple[str, str]]]:
    seen: list[tuple[str, str]] = []
    return LogFollower(str(folder), apps, lambda label, line: seen.append((label, line))), seen


def test_new_lines_are_shown_with_who_said_them_and_old_ones_are_not(tmp_path: Path) -> None:
    old = tmp_path / "replica_default_Model_aaaaaaaa.log"
    old.write_text("from yesterday\n")
    logs, seen = follow(tmp_path, "default")

    with old.open("a") as file:
        file.write("one\ntw")
    (tmp_path / "replica_default_My_Model_bbbbbbbb.log").write_text("two\n")
    (tmp_path / "importer_default.log").write_text("the replicas say it too\n")
    (tmp_path / "replica_other_Model_cccccccc.log").write_text("not ours\n")
    (tmp_path / "daemon.log").write_text("not ours\n")
    logs.read_new()
    with old.open("a") as file:
        file.write("o\nlast words")
    logs.close()

    assert sorted(seen) == [
        ("default/Model aaaaaaaa", "last words"),
        ("default/Model aaaaaaaa", "one"),
        ("default/Model aaaaaaaa", "two"),
        ("default/My_Model bbbbbbbb", "two"),
    ]


def test_a_log_that_was_cut_is_read_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "replica_default_Model_aaaaaaaa.log"
    log.write_text("long line from before\n")
    logs, seen = follow(tmp_path, "default")
    log.write_text("new\n")
    logs.close()
    assert [line for _, line in seen] == ["new"]


def test_a_name_with_other_characters_is_found_as_the_file_is_called(tmp_path: Path) -> None:
    logs, seen = follow(tmp_path, "my shop")
    (tmp_path / "replica_my_shop_Model_aaaaaaaa.log").write_text("x\n")
    logs.close()
    assert seen == [("my shop/Model aaaaaaaa", "x")]


def test_a_folder_that_is_not_there_yet_is_no_error(tmp_path: Path) -> None:
    logs, seen = follow(tmp_path / "absent", "default")
    logs.close()
    assert seen == []


def test_applications_are_told_apart_by_whoever_knows_them(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    known = {"replica_a_b_c_11111111.log": "a_b/c 11111111"}  # and not a/b_c
    (tmp_path / "replica_gone_D_00000000.log").write_text("of the past\n")
    logs = LogFollower(
        str(tmp_path), (), lambda label, line: seen.append((label, line)), labels=lambda: known
    )
    (tmp_path / "replica_a_b_c_11111111.log").write_text("x\n")
    (tmp_path / "replica_other_D_22222222.log").write_text("not wanted\n")
    with (tmp_path / "replica_gone_D_00000000.log").open("a") as file:
        file.write("not wanted either\n")
    logs.read_new()
    known["replica_late_D_33333333.log"] = "late/D 33333333"
    (tmp_path / "replica_late_D_33333333.log").write_text("y\n")
    logs.close()
    assert seen == [("a_b/c 11111111", "x"), ("late/D 33333333", "y")]


def test_whoever_cannot_be_asked_is_asked_again_and_no_line_is_lost(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    answers: list[dict[str, str] | None] = [{}, None, {"replica_a_D_11111111.log": "a/D 11111111"}]

    def labels() -> dict[str, str]:
        if (answer := answers.pop(0)) is None:
            raise InstanceError("between two daemons")
        return answer

    logs = LogFollower(str(tmp_path), (), lambda label, line: seen.append((label, line)), labels=labels)
    (tmp_path / "replica_a_D_11111111.log").write_text("first\n")
    logs.read_new()
    assert seen == []
    logs.close()
    assert seen == [("a/D 11111111", "first")]


def test_the_past_and_what_is_followed_are_each_line_once(tmp_path: Path) -> None:
    log = tmp_path / "replica_a_D_11111111.log"
    log.write_text("one\ntwo\nthr")
    logs, seen = follow(tmp_path, "a")
    with log.open("a") as file:
        file.write("ee\nfour\n")  # before the past is read
    source = Source(app="a", deployment="D", replica="11111111", path=str(log))
    past = [line for _, line in merged([source], 100, logs)]
    logs.close()
    assert past + [line for _, line in seen] == ["one", "two", "three", "four"]


def test_a_last_line_that_is_very_long_is_not_looked_through(tmp_path: Path) -> None:
    log = tmp_path / "replica_a_D_11111111.log"
    log.write_bytes(b"x" * (READ_BYTES + 1))
    logs, seen = follow(tmp_path, "a")
    with log.open("a") as file:
        file.write("y\n")
    logs.close()
    assert seen == [("a/D 11111111", "y")]
