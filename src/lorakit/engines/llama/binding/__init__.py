"""A binding of llama.cpp's C functions, and of them only what the engine calls.

It is written after llama.h, ggml.h, mtmd.h and mtmd-helper.h of llama.cpp's build 11549, and works
over the shared library of any package that exports them. What can be checked of a library is
checked when it is loaded. It knows nothing of models, adapters or the engine.
"""
