"""A small diffusion model of the training images, and the transfer set sampled from it."""
