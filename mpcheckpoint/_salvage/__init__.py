"""What can be proven of a corrupt log, and a new generation made of it."""
