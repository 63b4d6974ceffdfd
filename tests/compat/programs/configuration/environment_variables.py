"""`runtime_env` gives one deployment's replicas environment variables of their own."""

import os

import serve_lite as serve


@serve.deployment(ray_actor_options={"runtime_env": {"env_vars": {"GREETING": "moin"}}})
class North:
    def __call__(self) -> str | None:
        return os.environ.get("GREETING")


South = North.options(name="South", ray_actor_options={"runtime_env": {"env_vars": {"GREETING": "servus"}}})

north = serve.run(North.bind(), name="north", route_prefix=None)
south = serve.run(South.bind(), name="south", route_prefix=None)

assert north.remote().result() == "moin"
assert south.remote().result() == "servus"
assert "GREETING" not in os.environ
