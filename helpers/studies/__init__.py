"""The studies, a package each, and what they have in common."""
