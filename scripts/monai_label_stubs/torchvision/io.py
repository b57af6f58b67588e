"""Imported by transformers, which reads no video here."""
