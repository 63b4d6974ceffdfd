"""With a router for sessions, all calls of one session go to one replica, which may remember what was said."""

import serve_lite as serve
from serve_lite.config import RequestRouterConfig
from serve_lite.request_router import ConsistentHashRouter  # serve-lite only


@serve.deployment(
    num_replicas=3,
    request_router_config=RequestRouterConfig(request_router_class=ConsistentHashRouter),
)
class Diary:
    def __init__(self) -> None:
        self.pages: dict[str, list[int]] = {}

    async def open(self) -> str:
        return "open"

    async def write(self, who: str, line: int) -> list[int]:
        self.pages.setdefault(who, []).append(line)
        return self.pages[who]


handle = serve.run(Diary.bind())
assert handle.broadcast("open").results() == ["open"] * 3  # from here on the router knows all three

for line in range(5):
    for who in ("ann", "bob", "cem", "dora", "eve"):
        written = handle.options(session_id=who).write.remote(who, line).result()
        assert written == list(range(line + 1))
