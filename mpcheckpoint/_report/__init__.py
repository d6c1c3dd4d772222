"""What a report shows of the maps of a store: told from their logs, reckoned, and made into a page."""
