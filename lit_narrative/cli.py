"""The ``lit-narrative`` command."""


def main() -> None:
    """Entry point."""
    raise SystemExit("lit-narrative: being built")
