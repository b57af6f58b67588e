"""A bundle with the code it needs, as the MONAI Model Zoo wants it."""
