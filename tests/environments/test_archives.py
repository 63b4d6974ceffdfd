"""Archives, unpacked for real, from a file and from a web server; the hostile ones among them."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.replica.archives import prepare_archive, unpack
from serve_lite.replica.preparation_error import PreparationError
from serve_lite.state.environment import Archive
from serve_lite.wire.spawning import ArchiveLimits
from tests.environments.sources import Web, make_zip, redirect_to, serving

LIMITS = ArchiveLimits()


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


@pytest.fixture
def making(tmp_path: Path) -> Path:
    folder = tmp_path / "making"
    folder.mkdir()
    return folder


def local(path: Path, **fields: bool) -> Archive:
    found = path.stat()
    return Archive(uri=str(path), size=found.st_size, mtime_ns=found.st_mtime_ns, **fields)


def zip_bytes(tmp_path: Path, files: dict[str, str]) -> bytes:
    return make_zip(tmp_path / "served.zip", files).read_bytes()


@pytest.mark.parametrize(
    ("files", "is_module", "root"),
    [
        ({"shop.py": "", "sub/a.py": ""}, False, "content"),
        ({"shop-main/shop.py": "", "shop-main/sub/a.py": ""}, False, "content/shop-main"),
        ({"pack/__init__.py": ""}, False, "content/pack"),
        ({"pack/__init__.py": "", "pack/a.py": ""}, True, "content"),
        ({"libs-1.0/pack/__init__.py": ""}, True, "content/libs-1.0"),
        ({"one.py": ""}, True, "content"),
    ],
)
def test_a_single_folder_at_the_top_is_the_root_unless_it_is_the_package(
    tmp_path: Path, making: Path, files: dict[str, str], is_module: bool, root: str
) -> None:
    archive = local(make_zip(tmp_path / "a.zip", files), is_module=is_module)
    assert prepare_archive(archive, making, LIMITS).path == root


def test_programs_stay_executable(tmp_path: Path, making: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        tool = zipfile.ZipInfo("bin/tool")
        tool.external_attr = (stat.S_IFREG | 0o755) << 16
        archive.writestr(tool, "#!/bin/sh\n")
        archive.writestr("data", "d")
    prepare_archive(local(tmp_path / "a.zip"), making, LIMITS)
    assert os.access(making / "content/bin/tool", os.X_OK)
    assert not os.access(making / "content/data", os.X_OK)


def member(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("placeholder")
    info.filename = info.orig_filename = name
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (member("../out.py"), "'../out.py', a path that may lead out"),
        (member("a/../../out.py"), "may lead out"),
        (member("./a.py"), "may lead out"),
        (member("/etc/out.py"), "'/etc/out.py', which is not a path relative"),
        (member("a\\..\\out.py"), "not a path relative"),
        (member("C:/out.py"), "not a path relative"),
        (member("link", stat.S_IFLNK | 0o777), "'link', a symbolic link"),
        (member("pipe", stat.S_IFIFO | 0o666), "'pipe', a special file"),
        (member("good.py/under"), "twice, or as a file and a folder"),
        (member("good.py"), "twice, or as a file and a folder"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_member_refuses_the_whole_archive(
    tmp_path: Path, making: Path, info: zipfile.ZipInfo, words: str
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good.py", "")
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(PreparationError, match=words.replace(".", r"\.").replace("(", r"\(")):
        prepare_archive(local(tmp_path / "a.zip"), making, LIMITS)
    assert not (tmp_path / "out.py").exists()
    assert not (making / "out.py").exists()


def test_content_is_counted_and_not_believed(tmp_path: Path, making: Path) -> None:
    path = make_zip(tmp_path / "bomb.zip", {"zeros": "0" * 5_000_000})
    content = path.read_bytes().replace((5_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    path.write_bytes(content)  # it says it were small
    with pytest.raises(PreparationError):
        prepare_archive(local(path), making, ArchiveLimits(unpacked_bytes=1_000_000))
    honest = make_zip(tmp_path / "large.zip", {"zeros": "0" * 5_000_000})
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(PreparationError, match="more than 1000000 bytes.*MAX_UNPACKED_BYTES"):
        unpack(honest, target, ArchiveLimits(unpacked_bytes=1_000_000), "large.zip")
    assert sum(f.stat().st_size for f in target.rglob("*")) <= 1_000_000


def test_too_many_files_and_no_archive_at_all_are_refused(tmp_path: Path, making: Path) -> None:
    many = make_zip(tmp_path / "many.zip", {f"{i}.py": "" for i in range(11)})
    with pytest.raises(
        PreparationError, match=r"11 files and folders, more than 10; SERVE_LITE_ARCHIVE_MAX_FILES"
    ):
        prepare_archive(local(many), making, ArchiveLimits(files=10))
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(PreparationError, match="is not a zip file that can be read"):
        unpack(tmp_path / "text.zip", making, LIMITS, "text.zip")


def test_a_local_archive_that_was_changed_since_the_deploy_is_not_used(tmp_path: Path, making: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.py": ""})
    archive = local(path)
    make_zip(path, {"a.py": "", "b.py": ""})
    with pytest.raises(PreparationError, match="has changed since the application was deployed"):
        prepare_archive(archive, making, LIMITS)


@given(data=st.binary(max_size=300), at=st.integers(0, 400))
def test_whatever_a_damaged_archive_holds_nothing_lands_outside(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = make_zip(folder / "a.zip", {"a.py": "x = 1\n" * 10, "b/c.py": ""})
    content = path.read_bytes()
    path.write_bytes(content[:at] + data + content[at + len(data) :])
    target = folder / "target"
    target.mkdir()
    try:
        unpack(path, target, LIMITS, "a.zip")
    except (PreparationError, OSError):
        pass
    assert {entry.name for entry in folder.iterdir()} == {"a.zip", "target"}


# --- over HTTP ----------------------------------------------------------------------------------


def test_a_download_is_unpacked_and_its_hash_checked(tmp_path: Path, making: Path, web: Web) -> None:
    content = web.answers["/a.zip"] = zip_bytes(tmp_path, {"main/a.py": "x = 1"})
    web.answers["/moved.zip"] = redirect_to("/a.zip")
    url = web.url("/moved.zip", "me:secret@")
    right = Archive(uri=url, sha256=hashlib.sha256(content).hexdigest())
    assert prepare_archive(right, making, LIMITS).path == "content/main"
    assert sorted(p.name for p in making.iterdir()) == ["content"]
    assert "me:secret" in web.authorized

    other = making.parent / "other"
    other.mkdir()
    with pytest.raises(PreparationError, match=r"has the SHA-256 hash [0-9a-f]{64}, but") as caught:
        prepare_archive(Archive(uri=url, sha256="0" * 64), other, LIMITS)
    assert "secret" not in str(caught.value)


def test_what_cannot_be_fetched_is_told_without_the_password(making: Path, web: Web) -> None:
    web.answers["/loop.zip"] = redirect_to("/loop.zip")
    web.answers["/elsewhere.zip"] = redirect_to("file:///etc/passwd")
    wrong = {
        "/none.zip": "the server answers 404 Nothing here",
        "/loop.zip": "redirects more than 5 times",
        "/elsewhere.zip": "cannot be fetched",
    }
    for path, words in wrong.items():
        with pytest.raises(PreparationError, match=words) as caught:
            prepare_archive(Archive(uri=web.url(f"{path}?token=secret", "me:secret@")), making, LIMITS)
        assert "secret" not in str(caught.value)
        (making / "archive.zip").unlink(missing_ok=True)
    assert len(web.asked) < 10


def test_a_download_that_is_too_large_is_stopped(tmp_path: Path, making: Path, web: Web) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)  # with no length told
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"0" * 65536)
        except ConnectionError:
            stopped.set()

    stopped = threading.Event()
    web.answers |= {"/told.zip": b"0" * 2000, "/endless.zip": endless}
    for path in ("/told.zip", "/endless.zip"):
        with pytest.raises(PreparationError, match="larger than 1000 bytes; SERVE_LITE_ARCHIVE_MAX_BYTES"):
            prepare_archive(Archive(uri=web.url(path)), making, ArchiveLimits(download_bytes=1000))
        (making / "archive.zip").unlink(missing_ok=True)
    assert stopped.wait(30)


def test_a_download_that_is_too_slow_is_stopped(making: Path, web: Web) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while not over.wait(0.01):
                handler.wfile.write(b"0")
        except ConnectionError:
            pass

    def silent(handler: BaseHTTPRequestHandler) -> None:
        over.wait()

    over = threading.Event()
    web.answers |= {"/drip.zip": drip, "/silent.zip": silent}
    limits = ArchiveLimits(timeout_s=0.3)
    try:
        with pytest.raises(PreparationError, match=r"after 0\.3 s there were \d+ bytes of it"):
            prepare_archive(Archive(uri=web.url("/drip.zip")), making, limits)
        (making / "archive.zip").unlink()
        with pytest.raises(PreparationError, match="was silent for 0.3 s"):
            prepare_archive(Archive(uri=web.url("/silent.zip")), making, limits)
    finally:
        over.set()
