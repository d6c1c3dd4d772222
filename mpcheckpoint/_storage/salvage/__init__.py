"""What a damaged log still holds: read on behind damage, judge what belongs to it, copy that into a new generation."""
