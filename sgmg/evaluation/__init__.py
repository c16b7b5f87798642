"""How masks are scored: benchmarks, metrics, tables, sheets.

May import the network, inference and masks; knows no training and no shards.
"""
