"""The commands of `tskd`, one module each with its options and output."""
