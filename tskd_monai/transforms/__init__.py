"""Dictionary transforms of images and labels, and the pipelines they form."""
