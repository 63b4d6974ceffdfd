"""An exception in a deployment reaches the caller as what it was, through several deployments if need be."""

import serve_lite as serve


class OutOfStock(Exception):
    def __init__(self, article: str, missing: int) -> None:
        super().__init__(article, missing)
        self.article, self.missing = article, missing


@serve.deployment
class Warehouse:
    def take(self, article: str, number: int) -> int:
        if number > 5:
            raise OutOfStock(article, number - 5)
        return number


@serve.deployment
class Orders:
    def __init__(self, warehouse) -> None:
        self.warehouse = warehouse

    async def order(self, article: str, number: int) -> int:
        return await self.warehouse.take.remote(article, number)

    async def order_what_there_is(self, article: str, number: int) -> int:
        try:
            return await self.order(article, number)
        except OutOfStock as error:
            return await self.order(article, number - error.missing)


handle = serve.run(Orders.bind(Warehouse.bind()))

try:
    handle.order.remote("lamp", 8).result()
except OutOfStock as error:
    assert (error.article, error.missing) == ("lamp", 3)
else:
    raise AssertionError("eight lamps are too many")

assert handle.order_what_there_is.remote("lamp", 8).result() == 5
