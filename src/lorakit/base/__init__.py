"""A base model: a Hugging Face folder, or a GGUF file read as one."""
