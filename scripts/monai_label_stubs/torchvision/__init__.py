"""Replaces torchvision in the environment of the MONAI Label server.

The server imports two of its functions, which serving a bundle never calls. The real package must match torch in
version and build: beside a CPU build of torch, the version on the package index does not even import.
"""
