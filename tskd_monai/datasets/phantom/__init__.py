"""The embedded dataset: images computed from ellipsoids, with exact answers."""
