"""Looking after the files of a store: what is in them, whether they are whole, what can be saved of damaged ones."""
