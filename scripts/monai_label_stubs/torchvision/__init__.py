"""Stands in for torchvision in the environment of the MONAI Label server.

The server imports two functions of it that serving a bundle never calls. The real package has to match torch in version
and build: beside a CPU build of torch, the package index's own does not even import.
"""
