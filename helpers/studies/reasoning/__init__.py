"""Uncertainty signals of reasoning models: many runs a question, hidden states at `</think>`."""
