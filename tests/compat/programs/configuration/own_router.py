"""A router of one's own, in a module beside the script, decides which replicas a request should go to, best first."""

import sys
import tempfile
from pathlib import Path

import serve_lite as serve
from serve_lite.config import RequestRouterConfig

MODULE = '''
from serve_lite.request_router import RequestRouter


class ByFirstLetter(RequestRouter):
    """Words with the same first letter go to the same replica."""

    async def choose_replicas(self, candidate_replicas, pending_request=None):
        replicas = sorted(candidate_replicas, key=lambda replica: str(replica.replica_id))
        if pending_request is None:
            return [replicas]
        word = pending_request.args[0]
        return [[replicas[ord(word[0]) % len(replicas)]]]
'''


@serve.deployment(
    num_replicas=3,
    request_router_config=RequestRouterConfig(request_router_class="word_routers:ByFirstLetter"),
)
class Dictionary:
    def open(self) -> str:
        return "open"

    def look_up(self, word: str) -> str:
        return serve.get_replica_context().replica_tag


with tempfile.TemporaryDirectory() as folder:
    Path(folder, "word_routers.py").write_text(MODULE)
    sys.path.insert(0, folder)
    handle = serve.run(Dictionary.bind())
    assert handle.broadcast("open").results() == ["open"] * 3  # from here on the router knows all three

    shelves: dict[str, set[str]] = {}
    for word in ("ape", "ant", "bee", "boa", "cat", "cow", "ass", "bat", "cod"):
        shelves.setdefault(word[0], set()).add(handle.look_up.remote(word).result())

    assert all(len(replicas) == 1 for replicas in shelves.values())
    assert len(set.union(*shelves.values())) == 3
    serve.shutdown()
