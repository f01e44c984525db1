"""Ctrl-C, read between two steps."""

import signal
import threading


class Interrupt:
    """While this context is open, a first Ctrl-C sets `asked`; a second one ends the program as usual."""

    def __init__(self):
        self.asked = False

    def __enter__(self):
        self.old = None
        if threading.current_thread() is threading.main_thread():  # signals can only be set there
            self.old = signal.signal(signal.SIGINT, self.ask)
        return self

    def ask(self, *_):
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_):
        if self.old is not None:
            signal.signal(signal.SIGINT, self.old)
