"""Programs around the library: training, the paper's tables and figures, benchmarks, demos."""
