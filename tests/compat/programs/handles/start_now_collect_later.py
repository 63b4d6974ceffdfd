"""`.remote()` starts a call at once and does not block: start many, collect the results when they are needed."""

import serve_lite as serve


@serve.deployment(num_replicas=2)
class Anagrams:
    def __init__(self) -> None:
        self.words = ["listen", "silent", "enlist", "google", "inlets", "elbow", "below"]

    def find(self, word: str) -> list[str]:
        letters = sorted(word)
        return [other for other in self.words if sorted(other) == letters and other != word]


handle = serve.run(Anagrams.bind())

pending = {word: handle.find.remote(word) for word in ("listen", "elbow", "google")}
found = {word: response.result() for word, response in pending.items()}

assert found == {"listen": ["silent", "enlist", "inlets"], "elbow": ["below"], "google": []}
