"""A page to look at a run in a browser: one HTML file that loads nothing else."""
