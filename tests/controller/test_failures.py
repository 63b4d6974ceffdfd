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


def test_a_place_in_our_own_code_is_no_place_to_look_at() -> None:
    traceback = f'Traceback:\n  File "{failures._OUR_CODE}x.py", line 1, in f\nKeyError: 1\n'
    assert failures.describe(RemoteControlError("KeyError", "1", traceback)).splitlines()[-1] == "KeyError: 1"
    frozen = 'Traceback:\n  File "<frozen importlib._bootstrap>", line 1, in f\nKeyError: 1\n'
    assert failures.where(frozen) == ""


CRASH = f"""loading
Fatal Python error: Segmentation fault

Current thread 0x00007f (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/home/me/shop.py", line 18 in __init__
  File "{failures._OUR_CODE}replica/user_code.py", line 104 in build
  File "/usr/lib/python3.11/asyncio/runners.py", line 118 in run
  File "<string>", line 1 in <module>

Extension modules: uvloop.loop (total: 1)
""".splitlines()


def test_the_stack_of_a_crash_is_shown_down_to_user_code() -> None:
    words = failures.last_words(CRASH, 20)
    assert words[0] == "loading"
    assert words[-1] == '  File "/home/me/shop.py", line 18 in __init__'


def test_of_other_output_the_last_lines_are_shown() -> None:
    assert failures.last_words([*"abcdef", "", ""], 3) == ["d", "e", "f"]
