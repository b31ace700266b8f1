"""How raw examples become what a model reads: one kind of data a file."""
