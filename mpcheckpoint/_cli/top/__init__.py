"""``mpcheckpoint top``."""
