"""The door for requests: HTTP."""
