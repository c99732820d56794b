"""A person at a terminal, typing at the command line."""

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Sequence


def at_a_terminal(arguments: Sequence[str], answers: Sequence[bytes], **environment: str) -> str:
    """Everything that a terminal shows while somebody types an answer at every prompt; the command ends well.

    Args:
        arguments: of ``lit-narrative``.
        answers: keys.
        environment: of the terminal, such as ``TERM``.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "lit_narrative", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, **environment},
        start_new_session=True,
        preexec_fn=_own_terminal,
    )
    os.close(theirs)
    shown = b""
    for answer in answers:
        while not shown.endswith(b"> "):
            shown += os.read(ours, 1)
        os.write(ours, answer)
        shown += b"\n"
    try:
        while True:
            # a Ctrl-C that comes while readline is busy with another key is heard with the next key only:
            # press it again, as a person would, while nothing has come of it
            if answers[-1].endswith(b"\x03") and not select.select([ours], [], [], 10)[0]:
                os.write(ours, b"\x03")
            elif piece := os.read(ours, 4096):
                shown += piece
    except OSError:  # how a pseudo terminal says that the other side has closed
        pass
    assert process.wait(timeout=60) == 0
    os.close(ours)
    return shown.decode()


def _own_terminal() -> None:
    """Make the terminal on standard input that of the new session, so that Ctrl-C reaches it and is heard."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # programs in the background ignore it
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
