"""The learning curve of a dataset: students at several numbers of labelled slices."""
