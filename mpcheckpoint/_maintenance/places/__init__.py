"""Whether a place can hold a store."""
