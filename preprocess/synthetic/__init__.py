"""The demo's data, drawn and written in official layouts, fenced off from the other readers.

May import `dataset`, `readers` and `reencode`.
"""
