"""The process that runs user code, and the two processes that prepare it."""
