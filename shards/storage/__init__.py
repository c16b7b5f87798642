"""Where bytes live: local folders, object stores, and a cache of whole shards.

May import `shards.errors` only.
"""
