"""The llama.cpp engine: GGUF models through llama.cpp's C API."""
