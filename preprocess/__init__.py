"""From official data sets on disk to shards."""
