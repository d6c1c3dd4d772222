"""Real file systems on loop devices, whose power can be cut."""
