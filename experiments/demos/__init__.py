"""Small demonstrations on scikit-learn's handwritten digits."""
