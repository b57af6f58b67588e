"""Metrics of predicted label maps, comparisons of methods, latency, and the report that shows them."""
