"""Commands that look at a shard set, one a file; may import every other room of `shards`."""
