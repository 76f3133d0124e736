"""Adapters to other libraries and formats, one short file each; the core imports none of them."""
