"""One data set a file, each of which exports `DATASET`.

A reader may import `dataset`, `official_files`, `reader` and `reencode`, and readers of like form.
"""
