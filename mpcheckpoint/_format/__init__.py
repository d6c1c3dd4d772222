"""Pure bytes: the line format of a log (specified in docs/format.md), JSON values, file names. No I/O, no locks."""
