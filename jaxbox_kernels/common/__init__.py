"""What all backends share: dtypes, layouts, the boxes' bounds and areas, convolutions."""
