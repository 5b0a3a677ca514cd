"""The kernel layer: what packed weights look like, how they are multiplied, and which code does it where.

`formats` says what a packed tensor is, `reference` is the exact maths that every fast kernel is held against,
`dispatch` picks the implementation for a format and a device. Knows tensors only: no model, no file, no layer name.
Importing it loads torch, so nothing outside the in-process engine may import it at module level.
"""
