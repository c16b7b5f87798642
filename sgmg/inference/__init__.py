"""Prediction on any video: from Python, from the command line and as a web page.

This room imports `sgmg.network` and `sgmg.masks`.
"""
