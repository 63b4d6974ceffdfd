"""The benchmark harness: what it does with numbers. Taking them is tried by `make bench-quick`."""
