"""An ordinary `def` method runs in a thread, so it may block on another deployment's `.result()`."""

import time

import serve_lite as serve
from serve_lite.handle import DeploymentHandle


@serve.deployment
class Thesaurus:
    def synonym(self, word: str) -> str:
        return {"happy": "glad", "big": "large"}.get(word, word)


@serve.deployment
class Rewriter:
    def __init__(self, thesaurus: DeploymentHandle) -> None:
        self.thesaurus = thesaurus

    def rewrite(self, text: str) -> str:
        time.sleep(0.01)  # blocking code is welcome here
        synonyms = [self.thesaurus.synonym.remote(word) for word in text.split()]
        return " ".join(synonym.result(timeout_s=30) for synonym in synonyms)


handle = serve.run(Rewriter.bind(Thesaurus.bind()))
texts = ["a big day", "happy people", "rain"]
responses = [handle.rewrite.remote(text) for text in texts]
assert [response.result() for response in responses] == ["a large day", "glad people", "rain"]
