"""What programs of all kinds share: running, timing and reporting."""
