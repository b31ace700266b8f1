"""Data sets and sources of data, one a file: each hands out three splits."""
