"""The benchmark of box convolution against other ways to average over boxes."""
