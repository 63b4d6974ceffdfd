"""The long-lived processes: keeper and daemon."""
