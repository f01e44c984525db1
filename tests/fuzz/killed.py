"""Children that send themselves a signal at the COUNT-th event: each is asked for by SIGNAL COUNT WHAT FOLDER ...

Run as `python killed.py`, it reads one order a line, in JSON: a working directory, a file for what is printed, and the
list of these words. It forks a child for each and answers with its exit code, so that NumPy is imported once for all.

An event is an operation on files below FOLDER (opened, made, renamed, removed, its mode changed), as Python's audit
hooks tell them, or a step of the optimiser: so the moments are the same in every run, on every machine, and those
between two files are among them. WHAT is `finetune`; `steps`, the same with steps as the only events; or `save`.
"""

import json
import os
import sys

FILE_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.link", "os.truncate")


def arm(signum, count, folder=None):
    """Return a function that counts an event; it and the operations on files below the folder set off the signal."""
    left, folder = [count], folder and os.path.realpath(folder)

    def tick():
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signum)

    def hook(event, arguments):
        if event in FILE_EVENTS and any(below(argument, folder) for argument in arguments[:2]):
            tick()

    if folder:
        sys.addaudithook(hook)
    return tick


def below(path, folder):
    return isinstance(path, (str, os.PathLike)) and os.path.realpath(path).startswith(folder)


def finetune(tick, arguments, save_every):
    from lora_np.cli import commands
    from lora_np.experiments import record
    from lora_np.train.optimisers import AdamW

    record.SAVE_EVERY = save_every
    right = AdamW.step

    def step(*given):
        right(*given)
        tick()

    AdamW.step = step
    return commands.main(["finetune", *arguments])


def adapted(base, which, targets):
    """Return one of four adapters of a base: 0 and 3 differ in their numbers alone, the others in each file."""
    import numpy as np

    import lora_np as lnp

    rng = np.random.default_rng(which)
    if base.config["model_type"] == "bert":
        base = lnp.with_head(base, 3 + which % 3, "mean" if which % 3 else "first", rng)
    settings = ({"r": 2, "lora_alpha": 3.0}, {"r": 2, "lora_alpha": 7.0, "use_rslora": True}, {"r": 3})
    return lnp.inject(base, lnp.LoRAConfig(**settings[which % 3], target_modules=targets), rng)


def save(base, folder, which, targets, count, signum):
    import lora_np as lnp

    lora = adapted(lnp.load_pretrained(base), which, targets)
    arm(signum, count, folder)  # here: what was imported and read on the way is no event
    lnp.save_adapter(lora, folder, str(base))
    return 0


def child(words):
    """Do what the words say, and return an exit code."""
    signum, count, what, folder = int(words[0]), int(words[1]), words[2], words[3]
    if what == "save":
        return save(words[4], folder, int(words[5]), words[6:], count, signum)
    return finetune(arm(signum, count, folder if what == "finetune" else None), words[5:], float(words[4]))


def in_place(cwd, shown, words):
    """Run a child's work in its folder, with what it prints in a file, and end this process with its exit code."""
    os.chdir(cwd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the orders are not the child's
    for stream in (1, 2):
        os.dup2(os.open(shown, os.O_WRONLY | os.O_APPEND), stream)
    sys.exit(child(words))


def serve():
    import lora_np.cli.commands
    import lora_np.experiments.experiment  # noqa: F401 - and what these two import

    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            in_place(*order)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
