"""The command line of serve-lite: `serve` and `serve-lite`, the same program.

One file a command; `main.py` loads only the one that was asked for. `address.py` finds the instance,
`rest.py` talks to its control plane, `files.py` reads configuration files.
"""
