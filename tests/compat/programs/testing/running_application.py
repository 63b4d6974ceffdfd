"""`serve_lite.testing.running` deploys to an instance of its own for the time of a `with` block."""

import unittest

from fastapi import FastAPI

import serve_lite as serve
from serve_lite.testing import running  # serve-lite only

app = FastAPI()


@serve.deployment
@serve.ingress(app)
class Quiz:
    def __init__(self, answer: str) -> None:
        self.answer = answer

    @app.get("/guess/{word}")
    async def guess(self, word: str) -> bool:
        return word == self.answer


class QuizTest(unittest.TestCase):
    def test_the_right_word_wins(self) -> None:
        with running(Quiz.bind("tea")) as quiz:
            self.assertIs(quiz.client.get("/guess/tea").json(), True)
            self.assertIs(quiz.handle.guess.remote("rum").result(), False)

    def test_the_same_inside_this_process(self) -> None:
        with running(Quiz.bind("rum"), local=True) as quiz:
            self.assertIs(quiz.client.get("/guess/rum").json(), True)


outcome = unittest.main(exit=False).result
assert outcome.testsRun == 2 and outcome.wasSuccessful()
