"""The default engine: our own graph of a base on ONNX Runtime."""
