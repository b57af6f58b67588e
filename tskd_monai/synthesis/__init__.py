"""A diffusion model of the training images, and the transfer set that is sampled from it."""
