"""A recorder below the C library: what a process asks of the files of a store, and faults at calls of choice."""
