"""From measurements to profiles: one schema, importers, a fit, a held-out report, and a collector."""
