"""Code in a replica can ask which application, deployment and replica it is."""

import serve_lite as serve


@serve.deployment(num_replicas=2)
class Worker:
    def __init__(self) -> None:
        context = serve.get_replica_context()
        self.tag = f"{context.app_name}/{context.deployment}/{context.replica_tag}"

    def whoami(self) -> tuple[str, int, bool]:
        context = serve.get_replica_context()
        return self.tag, context.world_size, context.servable_object is self


handle = serve.run(Worker.bind(), name="crew")

tags: set[str] = set()
while len(tags) < 2:
    for response in [handle.whoami.remote() for _ in range(8)]:
        tag, world_size, is_self = response.result()
        assert (world_size, is_self) == (2, True)
        tags.add(tag)
assert all(tag.startswith("crew/Worker/") for tag in tags)

try:
    serve.get_replica_context()
except Exception as error:  # this script is no replica
    print(error)
else:
    raise AssertionError("there is no context outside a replica")
