"""From a `runtime_env` as a user writes it to the environment that code runs in. Nothing is prepared here."""
