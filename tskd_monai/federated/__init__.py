"""Training over several hospitals with NVFlare: weights travel, images do not."""
