"""One application may call another: it finds the other's handle by name when it needs it."""

import serve_lite as serve


@serve.deployment
class Users:
    def language_of(self, user: str) -> str:
        return {"ann": "en", "benoit": "fr"}[user]


@serve.deployment
class Greeter:
    async def greet(self, user: str) -> str:
        users = serve.get_app_handle("users")
        language = await users.language_of.remote(user)
        return {"en": "Good morning", "fr": "Bonjour"}[language] + f", {user}"


serve.run(Users.bind(), name="users", route_prefix=None)
greeter = serve.run(Greeter.bind(), name="greeter", route_prefix=None)

assert greeter.greet.remote("benoit").result() == "Bonjour, benoit"
