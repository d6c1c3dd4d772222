"""The records of a store as a handle sees them: the view, one log's records, transactions, followers."""
