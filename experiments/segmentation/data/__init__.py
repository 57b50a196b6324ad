"""Data sets: labelled images on disk, or generated."""
