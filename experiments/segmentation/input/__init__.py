"""From samples of a data set to batches on the device."""
