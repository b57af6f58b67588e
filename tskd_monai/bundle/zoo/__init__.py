"""Export of a bundle together with the code it needs, as the MONAI Model Zoo requires."""
