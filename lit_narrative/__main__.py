"""``python -m lit_narrative``: the command ``lit-narrative``."""

from lit_narrative.cli.main import main

if __name__ == "__main__":
    main()
