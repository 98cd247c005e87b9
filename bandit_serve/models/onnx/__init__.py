"""ONNX graphs as versions: what a file may hold, what it takes and gives, and its scores."""
