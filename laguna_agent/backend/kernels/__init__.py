"""The kernel layer: what weights look like, plain or packed, how they are multiplied, and which code does it where.

`dispatch` is what the model's modules call: it picks the implementation for a format and a device. `formats` says what
a packed tensor is, `reference` is the exact maths that every fast kernel is held against. Knows tensors only:
no model, no file, no layer name. Loads torch: nothing outside the in-process engine may import it at module level.
"""
