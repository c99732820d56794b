"""The commands beside Lightning's subcommands, one function each."""
