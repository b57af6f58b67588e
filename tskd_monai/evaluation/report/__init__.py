"""Self-contained HTML reports: tables, figures, overlays."""
