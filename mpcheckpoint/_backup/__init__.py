"""Back a store up while others write to it, and put a backup back in its place."""
