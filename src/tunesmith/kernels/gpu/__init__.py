"""Kernels for a GPU, written in Triton; each is the twin of a function of the same name in the module of the same name above.

Imported by `by_device` alone, when a tensor on a GPU asks for it. A kernel computes in float32 and rounds once.
"""
