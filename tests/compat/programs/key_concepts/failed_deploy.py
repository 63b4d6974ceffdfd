"""When a constructor fails, `serve.run` raises with the user's own exception, and the application says why."""

import serve_lite as serve


@serve.deployment(max_constructor_retry_count=1)
class Dictionary:
    def __init__(self, language: str) -> None:
        if language not in ("en", "fr"):
            raise ValueError(f"there is no word list for {language!r}")
        self.language = language

    def __call__(self) -> str:
        return self.language


try:
    serve.run(Dictionary.bind("tlh"))
except RuntimeError as error:
    assert "there is no word list for 'tlh'" in str(error)
else:
    raise AssertionError("a failing constructor must fail the deploy")

app = serve.status().applications["default"]
assert app.status == "DEPLOY_FAILED"
assert "no word list" in app.deployments["Dictionary"].message

# Once the mistake is mended, the same name works.
handle = serve.run(Dictionary.bind("fr"))
assert handle.remote().result() == "fr"
