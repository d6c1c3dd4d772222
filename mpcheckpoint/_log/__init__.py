"""The records of a store as a handle sees them: the view, one log's records, transactions, followers.

Lowest first: ``view`` (pure state), ``session`` (what the parts of one handle share), ``transaction``, ``follower``,
``record_log``.
"""
