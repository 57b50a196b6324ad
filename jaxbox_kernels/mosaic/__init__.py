"""The Pallas Mosaic GPU kernels that `jaxbox_kernels.mosaic_gpu` puts together."""
