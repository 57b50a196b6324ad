"""How box convolution is computed: one module an implementation."""
