"""The host model against recorded answers of real kernels: scores and differences."""
