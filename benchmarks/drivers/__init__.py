"""Programs that run in a contender's own environment and measure what HTTP cannot show.

Each prints one JSON object as its last line and ends with 0, or says what went wrong and ends with another code.
"""
