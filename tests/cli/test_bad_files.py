"""Files with mistakes, and word for word what is said of them.

`bad_files/NAME.yaml` is given to `serve validate`, `bad_files/NAME.txt` is what it prints. With UPDATE_GOLDEN=1 in the
environment the texts are written instead; read the difference before you commit it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from serve_lite.exceptions import ServeLiteError
from serve_lite_cli.main import main
from tests.cli.commands import Cli

BAD_FILES = Path(__file__).with_name("bad_files")
NAMES = sorted(path.stem for path in BAD_FILES.glob("*.yaml"))
UPDATE = os.environ.get("UPDATE_GOLDEN") == "1"


def said_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what `serve validate` prints, as the entry point of the program prints it."""
    with pytest.raises(ServeLiteError) as refused:
        main(["validate", f"{name}.yaml"])
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    return f"Error: {refused.value}\n"


@pytest.mark.filterwarnings("ignore:target_num_ongoing:DeprecationWarning")  # what one of the files is about
@pytest.mark.parametrize("name", NAMES)
def test_a_bad_file_is_told_all_its_mistakes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(BAD_FILES / f"{name}.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    said = said_of(name, capsys).replace(str(tmp_path), "FOLDER")
    golden = BAD_FILES / f"{name}.txt"
    if UPDATE:
        golden.write_text(said)
    assert said == golden.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_text_tells_places_by_line(name: str) -> None:
    lines = (BAD_FILES / f"{name}.txt").read_text().removeprefix("Error: ").splitlines()
    if len(lines) > 1:
        first, *lines = lines
        assert first == f"{len(lines)} mistakes in {name}.yaml:"
    places = [tuple(map(int, line.split(":")[1:3])) for line in lines]
    assert all(line.startswith(f"{name}.yaml:") for line in lines)
    assert places == sorted(places)


def test_there_is_no_text_without_a_file() -> None:
    assert sorted(path.stem for path in BAD_FILES.glob("*.txt")) == NAMES


#: Each way a file can be handed in tells the same.
COMMANDS = [["validate"], ["deploy"], ["diff"], ["run"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("name", ["out_of_range", "duplicate_keys", "tab_for_indent"])
async def test_every_command_tells_the_same_and_starts_nothing(
    cli: Cli, command: list[str], name: str
) -> None:
    shutil.copy(BAD_FILES / f"{name}.yaml", cli.folder)
    done = await cli(*command, f"{name}.yaml")
    assert (done.code, done.err) == (1, (BAD_FILES / f"{name}.txt").read_text())
    assert not os.path.exists(os.path.join(cli.home, "state.db"))


async def test_a_file_that_is_not_there_is_told_by_every_command(cli: Cli) -> None:
    for command in ("validate", "diff"):
        done = await cli(command, "nowhere.yaml")
        said = "Error: Cannot read the config file 'nowhere.yaml': No such file or directory.\n"
        assert (done.code, done.err) == (1, said)
    for command in ("deploy", "run"):  # it might be an import path
        done = await cli(command, "nowhere.yaml")
        assert done.code == 1
        assert done.err.startswith("Error: There is no config file 'nowhere.yaml' in ")


async def test_an_instance_that_runs_goes_on_whatever_is_wrong_with_a_file(cli: Cli) -> None:
    await cli.start()
    right = cli.write("right.yaml", "import_path: shop:app\n")
    assert (await cli("deploy", right, "--wait")).code == 0
    before = await cli("config")
    for name in NAMES:
        shutil.copy(BAD_FILES / f"{name}.yaml", cli.folder)
    for name in ("bad_names", "two_documents", "duplicate_prefixes"):
        done = await cli("deploy", f"{name}.yaml")
        assert (done.code, done.err) == (1, (BAD_FILES / f"{name}.txt").read_text())
    assert (await cli("config")).out == before.out
    assert (await cli.status("-n", "default"))["status"] == "RUNNING"
