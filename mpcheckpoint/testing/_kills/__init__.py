"""Killing programs and workers at random instants and named points, and judging what is left."""
