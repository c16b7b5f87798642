"""From a position in an epoch to a batch of clips: order, sampling, augmentation, decoding.

Imports `shards.format`, `shards.storage` and `shards.errors`.
"""
