"""What is served. Where Ray Serve and we can run the same file, only its import differs."""
