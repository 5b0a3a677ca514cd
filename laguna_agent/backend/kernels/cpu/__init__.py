"""Products with stored weights on the CPU: a small C++ library behind ctypes, one binary with several variants.

`building` compiles it, `library` finds or builds the one to use and opens it (no torch), `abi` has its structs,
`products` puts it under `dispatch`. The files in `native` hold the work; docs/kernels.md says how it is built, chosen
and checked. Without the library torch computes, slowly; `library.status()` says which it is and why.
"""
