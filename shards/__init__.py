"""Referring video object segmentation data as tar shards: write, read, check."""
