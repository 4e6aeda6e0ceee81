"""Benchmarks of Revati itself: accuracy against real GPUs, and speed."""
