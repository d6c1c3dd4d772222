"""Situations in which a log is appended to, run under the recorder with the native core and without it."""
