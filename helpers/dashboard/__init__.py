"""The public dashboard over stored runs of any study: read-only, and without torch.

`data` opens run folders, `address` reads addresses, `filters` chooses rows, `scores` scores them,
`figures` draws, `page` makes marimo's elements. What a study calls its things is in its file.
"""
