"""A person at a terminal, typing at the command line."""

import os
import pty
import select
import signal
import sys
import traceback
from collections.abc import Sequence

from lit_narrative.cli.main import main


def at_a_terminal(arguments: Sequence[str], answers: Sequence[bytes], **environment: str) -> str:
    """Everything that a terminal shows while somebody types an answer at every prompt; the command ends well.

    The command runs in a copy of this process, which has imported already what a new one would take seconds for.

    Args:
        arguments: of ``lit-narrative``.
        answers: keys.
        environment: of the terminal, such as ``TERM``.
    """
    child, ours = pty.fork()
    if not child:
        _sit_down(list(arguments), environment)
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
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, shown.decode()
    os.close(ours)
    return shown.decode()


def _sit_down(arguments: list[str], environment: dict[str, str]) -> None:
    """Run the command at the terminal that this process has as its standard streams, and end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # programs in the background ignore it
    os.environ.update(environment)
    # They last as long as the process.
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    code = 1
    try:
        main(arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)  # nothing of the tests is to end here as well
