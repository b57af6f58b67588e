"""Files on disk: whole or not at all, checked, limited, private. Knows no torch."""
