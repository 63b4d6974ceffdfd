"""One handle serves any number of threads."""

from concurrent.futures import ThreadPoolExecutor

import serve_lite as serve


@serve.deployment(num_replicas=2)
class Primes:
    def is_prime(self, number: int) -> bool:
        return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


handle = serve.run(Primes.bind())


def ask(number: int) -> bool:
    return handle.is_prime.remote(number).result()


with ThreadPoolExecutor(8) as pool:
    numbers = range(2, 60)
    primes = [number for number, is_prime in zip(numbers, pool.map(ask, numbers), strict=True) if is_prime]

assert primes == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59]
