"""Metrics, intervals, p-values, and the cards that say what each number is."""
