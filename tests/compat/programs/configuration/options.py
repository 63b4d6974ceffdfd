"""`options` returns a copy of a deployment with other options; the original stays as it was."""

import serve_lite as serve


@serve.deployment(num_replicas=1, max_ongoing_requests=10)
class Renderer:
    def __init__(self, theme: str) -> None:
        self.theme = theme

    def __call__(self, text: str) -> str:
        return f"<{self.theme}>{text}</{self.theme}>"


Large = Renderer.options(name="LargeRenderer", num_replicas=2)

assert (Renderer.name, Renderer.num_replicas, Renderer.max_ongoing_requests) == ("Renderer", 1, 10)
assert (Large.name, Large.num_replicas, Large.max_ongoing_requests) == ("LargeRenderer", 2, 10)

handle = serve.run(Large.bind("b"), name="bold")
assert handle.remote("hi").result() == "<b>hi</b>"
assert serve.status().applications["bold"].deployments["LargeRenderer"].replica_states == {"RUNNING": 2}

for wrong in ({"num_replicas": 0}, {"max_ongoing_requests": 0}, {"user_config": object()}):
    try:
        Renderer.options(**wrong)
    except ValueError as error:
        print(error)
    else:
        raise AssertionError(f"{wrong} should be refused")
