"""The command line ``lit-narrative``: Lightning's subcommands, the other commands, recipes, interactive writing."""
