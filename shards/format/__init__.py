"""The contract on disk: records, tar members, index and manifest, and the set they make up.

May import `shards.errors` and `shards.storage`.
"""
