"""How far a map is: counted, put into words, and shown as a bar, as lines, or by a tqdm of the caller's."""
