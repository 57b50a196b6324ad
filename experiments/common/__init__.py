"""What programs of all kinds share."""
