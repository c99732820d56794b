"""Signals that ask a job to end: obeyed at once where the work may be left, else when a step is complete."""

import os
import signal
import threading

import pytest

from lit_narrative import interrupts
from lit_narrative.interrupts import Interrupted, listening, may_be_left


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_outside_of_training_a_signal_ends_the_job_at_once(number: int) -> None:
    with listening(), pytest.raises(Interrupted) as stop:
        send(number)
    assert (stop.value.number, stop.value.resumable) == (number, True)


def test_in_training_it_waits_for_work_that_may_be_left() -> None:
    with listening():
        interrupts.set_training(True)
        send(signal.SIGTERM)
        assert interrupts.requested() == signal.SIGTERM
        with may_be_left(alone=False):  # several processes leave together
            pass
        with pytest.raises(Interrupted), may_be_left():
            pytest.fail("it was not left")


def test_work_that_may_be_left_is_left_in_its_middle() -> None:
    done = []
    with listening():
        interrupts.set_training(True)
        with pytest.raises(Interrupted) as stop, may_be_left():
            done.append("begun")
            send(signal.SIGINT)
            done.append("finished")
    assert done == ["begun"]
    assert stop.value.resumable


def test_a_person_who_presses_again_does_not_wait_and_nothing_is_saved() -> None:
    with listening():
        interrupts.set_training(True)
        send(signal.SIGINT)
        with pytest.raises(Interrupted) as stop:
            send(signal.SIGINT)
    assert not stop.value.resumable


def test_a_scheduler_that_sends_twice_waits_for_the_step() -> None:
    with listening():
        interrupts.set_training(True)
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert interrupts.requested() == signal.SIGTERM


def test_handlers_are_as_before_and_nothing_of_one_job_stays_for_the_next() -> None:
    before = [signal.getsignal(number) for number in interrupts.SIGNALS]
    with listening():
        interrupts.set_training(True)
        send(signal.SIGTERM)
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == before
    with may_be_left():  # as a run in Python, after one of the command line
        pass
    with listening():
        assert interrupts.requested() is None
        assert not interrupts.training()


def test_a_job_in_another_thread_leaves_the_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def job() -> None:
        with listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert seen == [before]
