"""Clients that make load and see what becomes of it. Each runs in the harness, beside the servers that it loads."""
