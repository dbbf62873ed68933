"""Timed comparisons, one file a question, each run on its own; results lie beside them with their provenance."""
