"""Arguments and results may be any Python objects, large arrays among them; the other side gets copies."""

import numpy as np

import serve_lite as serve


@serve.deployment
class Blur:
    def __call__(self, image: np.ndarray) -> np.ndarray:
        padded = np.pad(image, 1, mode="edge")
        return (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4


handle = serve.run(Blur.bind())

image = np.zeros((1000, 1000), dtype=np.float32)
image[500, 500] = 4.0
blurred = handle.remote(image).result()

assert blurred.shape == image.shape
assert blurred[499, 500] == blurred[500, 501] == 1.0 and blurred[500, 500] == 0.0
assert image[500, 500] == 4.0  # ours is untouched
