"""Box convolution by Pallas Mosaic kernels, for Hopper and Blackwell GPUs."""
