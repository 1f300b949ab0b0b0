"""What a GGUF file becomes as a Hugging Face folder: weights, config and tokenizer."""
