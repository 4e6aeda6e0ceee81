"""Third-party measurements, turned into the schema of `revati.profiler.measure`."""
