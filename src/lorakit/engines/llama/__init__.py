"""The llama.cpp engine: GGUF models through llama_cpp's low-level module."""
