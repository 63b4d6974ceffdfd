"""The examples as users run them: on a real instance, over HTTP, with the real models."""
