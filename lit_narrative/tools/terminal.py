"""What the tools that write to a terminal share."""

from rich.console import Console


def printable(text: str) -> str:
    """``text`` as a terminal can show it: control characters and lone surrogates become U+FFFD, line ends spaces."""
    return "".join(char if char.isprintable() else " " if char in "\n\r\t" else "\ufffd" for char in text)


def plain_console() -> Console:
    """A console that takes texts as they are: no markup, no emoji codes, no highlighting of numbers."""
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=False)
