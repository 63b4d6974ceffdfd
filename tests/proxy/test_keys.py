"""API keys as values, and the file that they come from."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.exceptions import InvalidConfigError
from serve_lite.proxy.key_file import KeyFile, add_key, read_keys, remove_key
from serve_lite.proxy.keys import Key, is_below, key_ring, line_of, new_key, parse_keys


def test_a_new_key_is_found_by_what_is_shown_and_by_nothing_else() -> None:
    key, shown = new_key("alice", apps=("shop",), rate="10/s", expires="2999-01-01T00:00:00Z")
    other, _ = new_key("bob")
    ring = key_ring([key, other])
    found = ring.find(shown.encode())
    assert found is not None and found.key == key
    wrong_end = shown[:-1] + ("A" if shown[-1] != "A" else "B")
    for wrong in ("", shown[:-1], wrong_end, shown.replace(key.id, other.id), f"x{shown}", f"{shown}\n"):
        assert ring.find(wrong.encode()) is None, wrong


def test_the_file_has_nothing_that_opens_a_door() -> None:
    key, shown = new_key("alice")
    secret = shown.split("_", 2)[2]
    assert len(secret) >= 43, "256 bits"
    assert secret not in line_of(key)
    assert key.hash == "sha256:" + hashlib.sha256(secret.encode()).hexdigest()


def test_no_two_keys_are_alike() -> None:
    assert len({new_key("a")[1] for _ in range(200)}) == 200


@given(st.text(st.characters(max_codepoint=0x2FF), max_size=40))
def test_no_text_but_the_key_is_found(text: str) -> None:
    key, _ = new_key("alice")
    assert key_ring([key]).find(text.encode("utf-8")) is None
    assert key_ring([key]).find(f"sl_{key.id}_{text}".encode()) is None


def test_lines_are_read_back_as_they_were_written() -> None:
    keys = tuple(new_key(name, routes=("/a", "/b/c"))[0] for name in ("one", "two"))
    text = "# ours\n\n" + "".join(map(line_of, keys))
    assert parse_keys(text, "file") == keys


GOOD = new_key("alice")[0]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "a b"}, "the name is 'a b'"),
        ({"name": "a\r\nx: y"}, "the name is"),
        ({"name": ""}, "the name is ''"),
        ({"id": "zz"}, "the id is 'zz'"),
        ({"hash": "sha256:12"}, "the hash must be"),
        ({"rate": "often"}, "'often' is not a rate"),
        ({"expires": "tomorrow"}, "tomorrow"),
        ({"expires": "2030-01-01T00:00:00"}, "needs a time zone"),
        ({"routes": ("shop",)}, "the route is 'shop'"),
        ({"routes": ("/a/../b",)}, "the route is '/a/../b'"),
        ({"apps": ("",)}, "an application's name is empty"),
    ],
)
def test_a_line_that_is_wrong_is_named_with_its_number(changed: dict[str, object], said: str) -> None:
    text = "# a note\n" + line_of(msgspec.structs.replace(GOOD, **changed))
    with pytest.raises(InvalidConfigError, match=f"^keys:2: .*{re.escape(said)}"):
        parse_keys(text, "keys")


@pytest.mark.parametrize(
    "line", ["alice secret", "[]", '{"name": "a"}', line_of(GOOD)[:-2] + ', "admin": true}']
)
def test_what_is_no_line_of_a_key_is_refused_and_hashes_are_not_repeated(line: str) -> None:
    with pytest.raises(InvalidConfigError, match="^keys:1: ") as caught:
        parse_keys(line, "keys")
    assert GOOD.hash.partition(":")[2] not in str(caught.value)


def test_two_keys_of_one_name_are_refused() -> None:
    text = line_of(GOOD) + line_of(new_key("alice")[0])
    with pytest.raises(InvalidConfigError, match="^keys:2: .*'alice' is also in line 1"):
        parse_keys(text, "keys")


@pytest.mark.parametrize(
    ("path", "is_let"),
    [
        ("/shop", True),
        ("/shop/", True),
        ("/shop/a/b/", True),
        ("/shopping", False),
        ("/", False),
        ("/Shop", False),
        ("/shop/../admin", False),
        ("/shop/.", False),
        ("/shop//admin", False),
        ("//shop", False),
        ("/shop\\..\\admin", False),
        ("/shop/%2e%2e/admin", False),  # escaped twice: this is after decoding
        ("/shop/%252e", False),
    ],
)
def test_a_path_is_below_a_route_only_if_nobody_can_read_it_otherwise(path: str, is_let: bool) -> None:
    assert is_below(path.encode(), (b"/shop",)) is is_let


def test_the_root_is_above_every_plain_path() -> None:
    assert is_below(b"/a/b", (b"",)) and is_below(b"/", (b"",))
    assert not is_below(b"/a/../b", (b"",))


# --- the file -------------------------------------------------------------------------------------


def test_keys_are_added_and_removed_and_notes_stay(tmp_path: Path) -> None:
    path = tmp_path / "api-keys"
    first, second = new_key("one")[0], new_key("two")[0]
    add_key(str(path), first)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("# of the web shop\n" + path.read_text().rstrip("\n"))
    add_key(str(path), second)
    assert read_keys(str(path)) == (first, second)
    assert remove_key(str(path), "one") == first
    assert path.read_text() == "# of the web shop\n" + line_of(second)
    with pytest.raises(InvalidConfigError, match=r"no API key 'one' in .* There are: two\."):
        remove_key(str(path), "one")
    with pytest.raises(InvalidConfigError, match="There is an API key 'two' already"):
        add_key(str(path), new_key("two")[0])


def test_keys_that_are_added_at_the_same_time_are_all_there(tmp_path: Path) -> None:
    path = str(tmp_path / "api-keys")
    threads = [threading.Thread(target=lambda n=n: add_key(path, new_key(f"k{n}")[0])) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in read_keys(path)} == {f"k{n}" for n in range(20)}


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_not_used(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "api-keys"
    add_key(str(path), GOOD)
    path.chmod(mode)
    with pytest.raises(InvalidConfigError, match="can be written by others"):
        read_keys(str(path))
    with pytest.raises(InvalidConfigError, match="can be written by others"):
        add_key(str(path), new_key("bob")[0])


def test_a_link_in_the_place_of_what_is_written_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "api-keys.new").symlink_to(victim)
    with pytest.raises(InvalidConfigError, match="cannot be written"):
        add_key(str(tmp_path / "api-keys"), GOOD)
    assert victim.read_text() == "precious"


def test_a_changed_file_counts_and_a_broken_one_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "api-keys"
    keys = KeyFile(str(path))
    keys.load()
    assert (len(keys.ring), keys.problem, keys.has_changed()) == (0, "", False)
    key, shown = new_key("alice")
    add_key(str(path), key)
    assert keys.has_changed()
    keys.load()
    assert keys.ring.find(shown.encode()) is not None

    whole = path.read_text()
    path.write_text(whole + "{")
    assert keys.has_changed()
    keys.load()
    assert keys.ring.find(shown.encode()) is not None, "the old keys stay"
    assert keys.problem.startswith(f"{path}:2: ")
    assert "stay as they were (1)" in caplog.text
    assert not keys.has_changed(), "it is said once"

    path.write_text(whole)
    keys.load()
    path.chmod(0o666)
    assert keys.has_changed(), "a change of mode counts"
    keys.load()
    assert "can be written by others" in keys.problem
    path.chmod(0o600)
    assert keys.has_changed()

    os.unlink(path)
    assert keys.has_changed()
    keys.load()
    assert keys.ring.find(shown.encode()) is None, "without a file no key is good"
    assert key.hash not in caplog.text and shown not in caplog.text


def test_a_key_has_no_more_fields_than_the_file() -> None:
    assert Key.__struct_fields__ == ("name", "id", "hash", "apps", "routes", "rate", "expires", "created")
