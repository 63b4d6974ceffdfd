"""The door for operators: the REST API."""
