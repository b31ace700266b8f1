"""Model families, one a file; what two of them share is in `layers`."""
