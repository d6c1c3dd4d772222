"""What a compaction drops, and what it says of that."""
