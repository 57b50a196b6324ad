"""Times of the library's operations and of the input pipeline."""
