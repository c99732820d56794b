"""The package's own commands, one function each."""
