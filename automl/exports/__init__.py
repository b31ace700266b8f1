"""Files from which a model runs without this program: one format a file, checked once written."""
