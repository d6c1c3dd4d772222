"""The parts of ``mpcheckpoint.aio``."""
