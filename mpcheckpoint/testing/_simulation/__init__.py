"""A disk that fails and forgets, processes played by one, and the enumeration of what can go wrong between them."""
