"""From boxes and points to label maps, and from these to the next training round."""
