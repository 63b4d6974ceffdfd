"""Programs that run in a contender's own environment and measure what HTTP cannot show."""
