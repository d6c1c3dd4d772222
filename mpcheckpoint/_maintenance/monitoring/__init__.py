"""Watch the logs of a store: what is appended to them, by whom, and how far their maps are."""
