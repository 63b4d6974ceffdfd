"""What is served: "hello" with as little code as possible, and a small FastAPI application."""
