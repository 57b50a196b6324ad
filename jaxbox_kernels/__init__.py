"""How the box convolution is computed: the contract of a backend, and one folder a backend."""
