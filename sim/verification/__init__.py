"""The model against the truth: recorded vectors, published numbers."""
