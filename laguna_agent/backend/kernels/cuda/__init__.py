"""Kernels for NVIDIA GPUs: CUDA C++ that NVRTC compiles at run time, and Triton for long prompts.

`native/` is read by two compilers: NVRTC on a machine with a GPU, and the system's C++ compiler under the shim of
`tests/cuda`, where the same source runs on a CPU, thread by thread. All geometry is constant in a kernel, so `launch`
knows what every pointer of it must hold, and checks that before anything runs. Knows tensors only: no model, no file.
"""
