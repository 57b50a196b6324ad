"""Box convolution in plain XLA: overlap matrices for small images, integral images for others."""
