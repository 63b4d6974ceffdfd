"""Applications to start from; every model in them is inside a package, so they run without a network."""
