"""`user_config` is handed to `reconfigure` before the first request; it keeps settings apart from code."""

import serve_lite as serve


@serve.deployment(user_config={"threshold": 0.8, "labels": ["ham", "spam"]})
class Filter:
    def reconfigure(self, config: dict) -> None:
        self.threshold = config["threshold"]
        self.labels = config["labels"]

    def label(self, score: float) -> str:
        return self.labels[score > self.threshold]


handle = serve.run(Filter.bind())
assert handle.label.remote(0.7).result() == "ham"

strict = Filter.options(user_config={"threshold": 0.5, "labels": ["ham", "spam"]})
handle = serve.run(strict.bind())
assert handle.label.remote(0.7).result() == "spam"
