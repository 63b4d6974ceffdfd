"""What keeps crashing is started ever more rarely, whatever it was before. Hours pass without anybody waiting."""

from __future__ import annotations

import pytest

from serve_lite.schema import DeploymentStatus
from tests.policy.cases import MODEL, wanted
from tests.policy.world import Behaviour, World


@pytest.mark.parametrize("target", [1, 2, 5])
@pytest.mark.parametrize("runs_s", [0.05, 1.0, 9.0])
def test_a_version_that_crashes_right_after_it_is_ready_backs_off(target: int, runs_s: float) -> None:
    """All there is, so it is never given up; one after the other, so that their failures do not coincide."""
    world = World({"v1": Behaviour(start_s=0.1)})
    world.deploy(wanted("v1", target))
    world.settle()
    world.behaviours["v1"] = Behaviour(start_s=0.1, runs_s=runs_s)
    for replica in world.running():
        world.run(runs_s / 3)
        world.kill(replica.id)
    starts: list[int] = []
    for _ in range(10):
        before = world.starts
        world.run(360.0)
        starts.append(world.starts - before)
    each = [count / target for count in starts]
    assert each[0] > max(each[2:])
    assert all(3 <= count <= 7 for count in each[2:]), each  # 64 to 96 seconds apart
    view = world.observed.deployments[MODEL]
    assert view.status is DeploymentStatus.UNHEALTHY
    assert "It will be retried" in view.message or "health check failed" in view.message
    assert view.message.endswith("it exited with status 1")
