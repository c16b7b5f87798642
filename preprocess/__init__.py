"""Official data sets on disk become shard sets; may import `shards`, never `sgmg`."""
