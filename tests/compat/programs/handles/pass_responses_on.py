"""A response can be an argument of the next call: its value goes there, and nobody waits in between."""

import serve_lite as serve


@serve.deployment
class Tokenizer:
    def __call__(self, text: str) -> list[str]:
        return text.lower().split()


@serve.deployment
class Counter:
    def __call__(self, words: list[str]) -> dict[str, int]:
        return {word: words.count(word) for word in words}


@serve.deployment
class Top:
    def __call__(self, counts: dict[str, int], *, number: int) -> list[str]:
        return sorted(counts, key=lambda word: -counts[word])[:number]


tokenizer = serve.run(Tokenizer.bind(), name="tokenizer", route_prefix=None)
counter = serve.run(Counter.bind(), name="counter", route_prefix=None)
top = serve.run(Top.bind(), name="top", route_prefix=None)

words = tokenizer.remote("the cat saw the dog and the dog saw the bird")
counts = counter.remote(words)
assert top.remote(counts, number=2).result() == ["the", "saw"]
