"""All four stages on one dataset, and the report."""
