"""The keeper's side of proxy processes: when one is started, started again, replaced. The processes are real."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from serve_lite.daemon.handover import DaemonProcess
from serve_lite.daemon.proxy_keeping import ProxyProcesses


class Spawned:
    """Starts processes that wait for the end of their link, and hears what they are told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.numbers: list[int] = []
        self.dropped: list[DaemonProcess] = []
        self.lines: list[str] = []
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._far_ends: dict[int, socket.socket] = {}

    def start(self, number: int) -> DaemonProcess:
        ours, theirs = socket.socketpair()
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
        )
        self._children[child.pid], self._far_ends[child.pid] = child, theirs
        self.numbers.append(number)
        return DaemonProcess(child.pid, ours, started_at=self.now)

    def drop(self, process: DaemonProcess) -> None:
        assert process.link is not None
        process.link.close()
        process.link = None
        self.dropped.append(process)

    def told(self, process: DaemonProcess) -> str:
        far = self._far_ends[process.pid]
        far.setblocking(False)
        try:
            return far.recv(4096).decode()
        except BlockingIOError:
            return ""

    def end(self, process: DaemonProcess, signal: int = 9) -> int:
        process.signal(signal)
        return self._children[process.pid].wait()

    def close(self) -> None:
        for child in self._children.values():
            child.kill()
            child.communicate()
        for far in self._far_ends.values():
            far.close()


@pytest.fixture
def spawned() -> Iterator[Spawned]:
    spawned = Spawned()
    yield spawned
    spawned.close()


@pytest.fixture
def proxies(spawned: Spawned) -> Iterator[ProxyProcesses]:
    proxies = ProxyProcesses(2, spawned.start, spawned.drop, spawned.lines.append)
    proxies.start(100.0)
    yield proxies
    for process in proxies.all():
        spawned.drop(process)


def test_all_are_started_at_once(proxies: ProxyProcesses, spawned: Spawned) -> None:
    assert spawned.numbers == [1, 2]
    assert proxies.next_at is None


def test_one_that_keeps_ending_is_started_after_longer_and_longer_pauses(
    proxies: ProxyProcesses, spawned: Spawned
) -> None:
    now, pauses = 100.0, []
    for _ in range(12):
        victim = proxies.all()[0]
        proxies.ended(victim, spawned.end(victim), now)
        assert proxies.next_at is not None
        pauses.append(round(proxies.next_at - now, 3))
        proxies.start_due(proxies.next_at - 0.01)
        assert len(proxies.all()) == 1  # not before its time
        spawned.now = now = proxies.next_at
        proxies.start_due(now)
        assert len(proxies.all()) == 2
    assert pauses == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0, 10.0]
    assert "ended by SIGKILL: starting another in 10.0 s" in spawned.lines[-1]
    assert spawned.numbers == [1, 2, *([1] * 12)]
    victim = proxies.all()[0]
    proxies.ended(victim, spawned.end(victim), now + 31)  # it was up for 31 s: forgotten
    assert proxies.next_at == now + 31


def test_the_old_one_goes_on_until_the_new_one_is_ready(proxies: ProxyProcesses, spawned: Spawned) -> None:
    old = proxies.all()
    proxies.replace(7.5)
    assert len(proxies.all()) == 4
    assert [spawned.told(process) for process in old] == ["", ""]
    new = next(process for process in proxies.all() if process not in old)
    proxies.heard(new, "ready")
    assert [spawned.told(process) for process in old] == ["retire 7.5\n", ""]
    proxies.ended(old[0], spawned.end(old[0], 15), 101.0)
    assert proxies.next_at is None  # it was meant to end
    assert len(proxies.all()) == 3


def test_a_new_one_that_ends_before_it_is_ready_is_tried_again_and_the_old_one_goes_on(
    proxies: ProxyProcesses, spawned: Spawned
) -> None:
    old = proxies.all()
    proxies.replace(1.0)
    new = next(process for process in proxies.all() if process not in old)
    proxies.ended(new, spawned.end(new), 101.0)
    assert proxies.next_at == 101.0
    proxies.start_due(101.0)
    assert set(old) <= set(proxies.all()) and len(proxies.all()) == 4


def test_another_upgrade_retires_what_never_got_ready(proxies: ProxyProcesses, spawned: Spawned) -> None:
    old = proxies.all()
    proxies.replace(1.0)
    unready = [process for process in proxies.all() if process not in old]
    proxies.replace(2.0)
    assert [spawned.told(process) for process in unready] == ["retire 2.0\n"] * 2
    assert [spawned.told(process) for process in old] == ["", ""]
    assert len(proxies.all()) == 6


def test_none_is_started_after_the_drain(proxies: ProxyProcesses, spawned: Spawned) -> None:
    first, second = proxies.all()
    proxies.drain()
    assert [spawned.told(first), spawned.told(second)] == ["drain\n", "drain\n"]
    for process in (first, second):
        proxies.ended(process, spawned.end(process), 101.0)
    proxies.start_due(1000.0)
    assert proxies.all() == [] and proxies.next_at is None


def test_a_keeper_that_changes_its_code_remembers_all_of_them(
    spawned: Spawned, proxies: ProxyProcesses
) -> None:
    old = proxies.all()
    proxies.replace(3.0)
    victim = [process for process in proxies.all() if process not in old][1]
    proxies.ended(victim, spawned.end(victim), 101.0)
    later = ProxyProcesses(2, spawned.start, spawned.drop, spawned.lines.append)
    later.remember(proxies.memory(), 102.0)
    assert {process.pid for process in later.all()} == {process.pid for process in proxies.all()}
    assert later.next_at == 102.0  # the one that had ended
    later.heard(next(p for p in later.all() if p.pid == proxies.all()[0].pid), "ready")
    assert spawned.told(old[0]) == "retire 3.0\n"
    for process in later.all():  # the links are the same descriptors
        assert process.link is not None
        process.link.detach()
