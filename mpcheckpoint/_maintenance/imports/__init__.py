"""Records from elsewhere: JSON Lines, files of the older tool, other logs."""
