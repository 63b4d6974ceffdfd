"""What the applications of every framework share: a diary and a gate that the test sees too, and a file to serve."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

#: Where diary, gates and the file are; in the environment of the applications.
FOLDER = "FRAMEWORKS_FOLDER"

LARGE = "all work and no play " * 500
SECRET = "the secret ingredient is salt"
SITE = "https://shop.example"  #: may ask from another origin


def here(name: str) -> Path:
    return Path(os.environ[FOLDER], name)


def served_file() -> Path:
    """A file of 100 kB that the tests have written."""
    return here("file.bin")


def note(text: str) -> None:
    """Add a line to the diary."""
    with open(here("diary"), "a") as diary:
        diary.write(f"{text}\n")


async def gate(name: str) -> None:
    """Return once the test has opened a gate."""
    while not here(name).exists():
        await asyncio.sleep(0.005)


def wait_for_gate(name: str) -> None:
    """The same for threads."""
    while not here(name).exists():
        time.sleep(0.005)
