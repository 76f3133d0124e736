"""Embeddings in other libraries, and other libraries' features here: one short file each."""
