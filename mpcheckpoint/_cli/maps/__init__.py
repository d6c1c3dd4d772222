"""``mpcheckpoint map`` and ``mpcheckpoint results``."""
