"""Kills, faults of the machine and bad neighbours: what goes on, what is lost, and that nothing is left."""
