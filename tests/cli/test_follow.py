"""Following what applications print."""

from __future__ import annotations

from pathlib import Path

from serve_lite_cli.follow import LogFollower


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
