"""`python -m lora_np` and the console command `lora-np`.

NumPy takes a third of a second to load, and somebody may press Ctrl-C in it. So nothing but the standard library is
imported here before that is provided for.
"""

import os
import sys


def leave(*_):
    """End at once, before anything is at work; an exception might be lost inside an import."""
    os.write(2, b"\nlora_np: stopped.\n")
    os._exit(130)


try:
    import signal  # which takes some milliseconds itself
except KeyboardInterrupt:
    leave()


def run():
    opened_streams()
    before = signal.signal(signal.SIGINT, leave)
    try:
        from lora_np.cli.commands import main
        from lora_np.train.memory import keep_freed_memory

        keep_freed_memory()
        code = main()
    finally:
        signal.signal(signal.SIGINT, before)
    sys.exit(code)


def opened_streams():
    """See to it that there are three open streams; else the next file that is opened would become one of them."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")
    if sys.stdout is None:
        print("lora_np: standard output is closed; send it to a file, or to /dev/null.", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run()
