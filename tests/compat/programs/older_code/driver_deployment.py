"""`is_driver_deployment` meant one replica on each machine; here there is one machine."""

import serve_lite as serve


@serve.deployment(is_driver_deployment=True, max_concurrent_queries=50)
class Door:
    def __call__(self, name: str) -> str:
        return f"come in, {name}"


handle = serve.run(Door.bind(), _blocking=True)
assert handle.remote("Ann").result(5) == "come in, Ann"
assert serve.status().applications["default"].deployments["Door"].replica_states == {"RUNNING": 1}
