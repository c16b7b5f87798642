"""From planned videos to committed shards, in this process, in several, or on a Ray cluster.

May import `shards.errors`, `shards.storage` and `shards.format`.
"""
