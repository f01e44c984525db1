"""Ctrl-C, and the signals by which a system ends a program: read between two steps, or raised as Ctrl-C is."""

import signal
import threading
import time
from contextlib import contextmanager

# SIGTERM comes from kill, timeout and schedulers, SIGHUP from a terminal that is closed, SIGBREAK from Windows.
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
AT_ONCE = 1.0  # seconds: `timeout`, for one, sends its signal twice


class Stopped(KeyboardInterrupt):
    """One of the ENDING signals came."""


@contextmanager
def handled(on_ctrl_c, on_end):
    """Give Ctrl-C and the ENDING signals, unless they are ignored as under nohup, other handlers for a while."""
    old = {}
    if threading.current_thread() is threading.main_thread():  # signals can only be set there
        old = {signal.SIGINT: signal.signal(signal.SIGINT, on_ctrl_c)}
        for number in ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:
                old[number] = signal.signal(number, on_end)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def stoppable():
    """Return a context in which the ENDING signals raise Stopped, so that what is half written is cleared away."""
    return handled(signal.default_int_handler, stop)


def stop(number, _):
    signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the clearing
    raise Stopped(number)


def exit_code(error):
    """Return what shells expect of a program that a signal ended: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (error.args[0] if isinstance(error, Stopped) else signal.SIGINT)


class Interrupt:
    """While this context is open, a first signal sets `asked` to its number; a later Ctrl-C ends the program."""

    def __init__(self):
        self.asked, self.since = 0, 0.0
        self.context = handled(self.ask, self.ask)

    def __enter__(self):
        self.context.__enter__()
        return self

    def ask(self, number, _):
        if number == signal.SIGINT and self.asked and time.monotonic() - self.since > AT_ONCE:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self.since = number, time.monotonic()

    def __exit__(self, *error):
        return self.context.__exit__(*error)
