"""Accuracy harness: replays serving runs that were measured on real GPUs and shows how far off we are."""
