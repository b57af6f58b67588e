"""The embedded study: images computed from ellipsoids, with exact answers."""
