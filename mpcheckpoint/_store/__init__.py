"""A store as handles use it: its directory, the seam that another engine can stand behind, what a process shares."""
