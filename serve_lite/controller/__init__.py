"""The loop that owns processes: compares goal and observed, and acts."""
