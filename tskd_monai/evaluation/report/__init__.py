"""Reports as one HTML file: tables, figures, overlays."""
