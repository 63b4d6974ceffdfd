"""Arguments of a builder may be a pydantic model, which checks them and turns a command line's text into numbers."""

from pydantic import BaseModel, ValidationError

import serve_lite as serve
from serve_lite import Application


class Arguments(BaseModel):
    greeting: str = "Hello"
    replicas: int
    polite: bool = False


@serve.deployment
class Greeter:
    def __init__(self, greeting: str) -> None:
        self.greeting = greeting

    def greet(self, name: str) -> str:
        return f"{self.greeting}, {name}"


def build(args: Arguments) -> Application:
    greeting = args.greeting + (", dear" if args.polite else "")
    return Greeter.options(num_replicas=args.replicas).bind(greeting)


# As `serve run greeter:build replicas=2 polite=true` would call it.
handle = serve.run(build(Arguments(replicas="2", polite="true")))

assert handle.greet.remote("Ann").result() == "Hello, dear, Ann"
assert serve.status().applications["default"].deployments["Greeter"].replica_states == {"RUNNING": 2}

try:
    build(Arguments(replicas="two"))
except ValidationError as error:
    assert error.errors()[0]["loc"] == ("replicas",)
else:
    raise AssertionError("two is no number")
