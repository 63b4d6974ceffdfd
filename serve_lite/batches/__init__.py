"""How `@serve.batch` works: `queue` collects calls into batches, `calls` runs them and answers their callers."""
