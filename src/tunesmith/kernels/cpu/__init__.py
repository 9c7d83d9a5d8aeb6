"""Kernels in C for a processor, one file of C and one that calls it each; the functions are those of the modules above."""
