"""A package of a user: a task, an algorithm, a callback and an analysis that lit-narrative does not know."""
