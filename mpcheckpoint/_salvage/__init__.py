"""Prove what can be proven of a corrupt log, and make a new generation of it."""
