"""The public dashboard over stored runs: read-only, and without torch.

`data` opens run folders, `query` reads addresses, `filters` chooses rows, `scores` scores them,
`figures` and `score_figures` draw, `details` shows single runs, `page` makes marimo's elements.
"""
