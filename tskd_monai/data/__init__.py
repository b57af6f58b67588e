"""Datalists, tasks, readers and writers, and the embedded study."""
