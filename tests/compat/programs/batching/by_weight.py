"""`batch_size_fn` measures a batch in something else than items, for example in words."""

import serve_lite as serve


def count_words(texts: list[str]) -> int:
    return sum(len(text.split()) for text in texts)


@serve.deployment
class Summarizer:
    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.05, batch_size_fn=count_words)
    async def summarize(self, texts: list[str]) -> list[tuple[str, int]]:
        words = count_words(texts)
        return [(text.split()[0], words) for text in texts]


handle = serve.run(Summarizer.bind())

texts = ["one two three four five", "uno dos tres", "un deux trois quatre", "eins zwei"]
answers = [handle.summarize.remote(text) for text in texts]
results = [answer.result() for answer in answers]

assert [first for first, _ in results] == ["one", "uno", "un", "eins"]
assert all(words <= 8 for _, words in results)
