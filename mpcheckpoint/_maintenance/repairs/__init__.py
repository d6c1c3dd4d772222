"""Whether logs are whole, and what can be done for those that are not."""
