"""The authors' checkpoints: reading them safely and making networks of them.

This room imports `sgmg.network` and nothing else of ours.
"""
