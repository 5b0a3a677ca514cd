"""Products with stored weights on the CPU: a small C library, compiled on the machine that it runs on.

`library` builds and opens it (no torch), `products` puts it under `dispatch`. The C files beside them hold the work:
`vectors.h` and `matrix.h` turn stored rows into floats, `products.c` multiplies, `pool.c` keeps the threads.
Without a compiler the torch reference computes the same numbers, slowly; `library.status()` says which it is and why.
"""
