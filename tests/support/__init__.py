"""What the tests stand on. Importable under this name in every process they start."""
