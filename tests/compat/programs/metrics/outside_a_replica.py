"""Code that counts can be used anywhere: outside a replica metrics check their arguments and record nothing."""

from serve_lite import metrics

requests = metrics.Counter("lookups", "Words looked up.", tag_keys=("language",))


def look_up(word: str, language: str) -> str:
    requests.inc(tags={"language": language})
    return {"en": {"huis": "house"}}[language][word]


assert look_up("huis", "en") == "house"
assert requests.info["name"] == "lookups" and requests.info["tag_keys"] == ("language",)

for wrong, error in (
    (lambda: requests.inc(-1, tags={"language": "en"}), ValueError),
    (lambda: requests.inc(), ValueError),  # which language?
    (lambda: metrics.Counter("lookups", tag_keys=["language"]), TypeError),  # a tuple is needed
    (lambda: metrics.Histogram("seconds", boundaries=[]), ValueError),
):
    try:
        wrong()
    except error as refused:
        print(refused)
    else:
        raise AssertionError("this should be refused")
