"""The commands of `tskd`, one file for each: its options and what it prints."""
