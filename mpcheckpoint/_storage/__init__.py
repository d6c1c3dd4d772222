"""A store on disk: its directory, its logs read and written, its locks, its generations.

Lowest first: ``mutex``, ``clock``, ``paths`` and ``faults`` (errno to typed error); ``judge`` (torn or corrupt);
``reader`` (one log, no locks, never writes); ``repair`` and ``generation`` (one log file open for append); ``poison``
and ``switch`` (another generation); ``writer`` (its locks); ``process`` (what a process shares, and fork);
``directory`` and ``store`` (what a handle asks for, see ``engine``).
"""
