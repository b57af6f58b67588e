"""The embedded dataset: images computed from ellipsoids, with exact labels at every point."""
