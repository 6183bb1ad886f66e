"""Continual learning and unlearning on frozen transformers: learn and forget in one stream."""
