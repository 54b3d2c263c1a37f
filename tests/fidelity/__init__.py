"""The host model against recorded answers of real kernels: scores, and the differences that remain."""
