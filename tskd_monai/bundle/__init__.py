"""Bundles as a whole: their options, how a stage runs, the student's bundle, audit and export."""
