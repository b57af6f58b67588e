"""Dictionary transforms in MONAI style."""
