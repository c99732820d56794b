"""What watches a run or intervenes in it: one callback a file."""
