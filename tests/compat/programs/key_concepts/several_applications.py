"""Applications live side by side, each with a name and a route prefix; one can go without the others noticing."""

import os

import httpx

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


@serve.deployment
class Shop:
    def __init__(self, goods: str) -> None:
        self.goods = goods

    def __call__(self) -> str:
        return f"We sell {self.goods}."


serve.run(Shop.bind("bread"), name="bakery", route_prefix="/bakery")
serve.run(Shop.bind("books"), name="bookshop", route_prefix="/books")

assert httpx.get(f"{URL}/bakery").text == "We sell bread."
assert httpx.get(f"{URL}/books/novels").text == "We sell books."  # everything below the prefix
assert httpx.get(f"{URL}/bookstore").status_code == 404  # but only whole segments count
assert httpx.get(f"{URL}/-/routes").json() == {"/bakery": "bakery", "/books": "bookshop"}

serve.delete("bakery")
assert httpx.get(f"{URL}/bakery").status_code == 404
assert serve.get_app_handle("bookshop").remote().result() == "We sell books."
