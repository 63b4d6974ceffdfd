"""Running an application of the same name again updates it: new code, new arguments, no moment without an answer."""

import os
import threading

import httpx

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


@serve.deployment
class PriceList:
    def __init__(self, season: str) -> None:
        self.season = season

    def __call__(self) -> str:
        return self.season


seen: list[str] = []
has_asked, is_over = threading.Event(), threading.Event()


def keep_asking() -> None:
    with httpx.Client(base_url=URL) as client:
        while not is_over.is_set():
            seen.append(client.get("/").raise_for_status().text)
            has_asked.set()


serve.run(PriceList.bind("summer"))
customer = threading.Thread(target=keep_asking)
customer.start()
has_asked.wait()

serve.run(PriceList.bind("winter"))
is_over.set()
customer.join()

assert seen[0] == "summer" and set(seen) <= {"summer", "winter"}
assert httpx.get(URL).text == "winter"
