"""Learn a network from targets: recipes, matching, losses, updates, checkpoints of a run.

May import `sgmg.network` and `sgmg.masks`; knows no shards, clips come as plain tensors.
"""
