"""One circuit analysis a file."""
