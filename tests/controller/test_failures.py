from __future__ import annotations

import serve_lite.controller.failures as failures
from serve_lite.controller.importer import BuildError
from serve_lite.wire.connection import RemoteControlError

TRACEBACK = f"""Traceback (most recent call last):
  File "{failures._OUR_CODE}replica/user_code.py", line 10, in build
    self.instance = cls(*args)
  File "/home/me/shop.py", line 3, in __init__
    raise ValueError("no model")
ValueError: no model
"""


def test_a_failure_ends_with_the_users_exception_and_its_line() -> None:
    text = failures.describe(RemoteControlError("ValueError", "no model", TRACEBACK))
    assert text.startswith('Traceback (most recent call last):\n  File "/home/me/shop.py", line 3')
    assert text.endswith("ValueError: no model (at /home/me/shop.py:3)")


def test_frames_of_ours_are_kept_if_there_are_no_others() -> None:
    traceback = f'Traceback:\n  File "{failures._OUR_CODE}x.py", line 1, in f\nKeyError: 1\n'
    assert "x.py" in failures.describe(RemoteControlError("KeyError", "1", traceback))


def test_a_build_failure_says_where() -> None:
    error = BuildError("ModuleNotFoundError", "No module named 'shop'", "", "conf.yaml:3")
    assert failures.describe(error) == "ModuleNotFoundError: No module named 'shop' (at conf.yaml:3)"
