"""Serving benchmarks: an engine's server and its load generator together in one virtual world."""
