"""Histories of concurrent operations: recording them, and finding out whether one order explains them."""
