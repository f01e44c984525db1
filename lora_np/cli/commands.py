"""The commands, and what happens when one cannot do what it was asked: one sentence, exit code 2."""

import argparse
import importlib
import os
import sys

import lora_np
from lora_np.cli.interrupt import exit_code, stoppable

COMMANDS = {  # what each does, and an example
    "finetune": ("adapt a pretrained model to data it fails on", "finetune"),
    "gradcheck": ("verify every gradient numerically", "gradcheck --model digits"),
    "predict": ("what an adapted model says about test images", "predict --adapter runs/digits-lora-001/adapter"),
    "evaluate": (
        "how often a model is right on test data of any domain",
        "evaluate --adapter runs/minilm-lora-001/adapter --data amazon-reviews",
    ),
    "merge": (
        "add an adapter into its base, as a plain model folder",
        "merge --adapter runs/digits-lora-001/adapter --out merged",
    ),
    "info": ("what is in a model, adapter or run folder", "info digits"),
    "pretrain-digits": ("make the embedded model again", "pretrain-digits --out digits-again"),
}


def main(argv=None):
    """Run a command; return 0, or 1 for a failed gradient check, 2 for a mistake in the input, 130 after Ctrl-C.

    Another signal that ended it gives 128 and its number, as shells have it: 143 after SIGTERM.
    """
    argv = sys.argv[1:] if argv is None else argv
    name = f"lora_np {argv[0]}" if argv else "lora_np"
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without a letter shows its code
    try:
        try:
            if not argv:
                return overview()
            command, args = parsed(argv)
            with stoppable():
                return command.main(args)
        finally:
            sys.stdout.flush()  # here we still can say that it failed
    except BrokenPipeError:  # whoever read our output has left, as `head` does
        discard_output()
        return 1
    except (ValueError, OSError, MemoryError) as error:
        if os.environ.get("LORA_NP_TRACEBACK"):  # for those who look for the place
            raise
        print(f"\n{name}: {sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"\n{name}: stopped.", file=sys.stderr)
        return exit_code(error)


def sentence(error):
    """Return what is said of an error."""
    if isinstance(error, MemoryError):
        return f"there is not enough memory for this ({error or 'no more is known'}); ask for less at once."
    if isinstance(error, OSError) and error.strerror:  # the system's own; ours are sentences already
        if error.filename is not None:
            return f"{error.filename} cannot be read or written: {error.strerror}."
        discard_output()
        return f"standard output cannot be written: {error.strerror}; send it elsewhere."
    return error


def discard_output():
    """Send what is still to be printed nowhere: Python tries again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def overview():
    print("lora_np: LoRA from the inside, in NumPy. What can be done, with an example each:\n")
    for name, (what, example) in COMMANDS.items():
        print(f"  {name:<16} {what}\n  {'':<16} $ python -m lora_np {example}\n")
    print("Options of a command: python -m lora_np COMMAND --help")
    return 0


def parsed(argv):
    """Return the module of the command that is asked for, and its arguments."""
    parser = argparse.ArgumentParser(prog="lora_np", description="LoRA from the inside, in NumPy.")
    parser.add_argument("-V", "--version", action="version", version=f"lora_np {lora_np.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (what, example) in COMMANDS.items():
        description = f"{what[0].upper()}{what[1:]}."
        epilog = f"example: python -m lora_np {example}"
        sub = commands.add_parser(name, help=what, description=description, epilog=epilog)
        if argv[0] == name:  # the others need not be imported
            module = importlib.import_module(f"lora_np.cli.{name.replace('-', '_')}")
            module.add_arguments(sub)
    args = parser.parse_args(argv)
    return module, args
