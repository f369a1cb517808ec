"""The decoding kernels of codec/kernels for browsers: C glue, and how it becomes web/kernels.wasm.

    python -m codec.view.wasm

The file is part of the repository, so nobody needs a compiler to read images in a browser; whoever
changes a kernel builds it anew.
"""
