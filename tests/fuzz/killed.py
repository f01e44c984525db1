"""Run as a child: python killed.py SIGNAL COUNT WHAT FOLDER ...; it sends itself a signal at the COUNT-th event.

An event is an operation on files below FOLDER (opened, made, renamed, removed, its mode changed), as Python's audit
hooks tell them, or a step of the optimiser: so the moments are the same in every run, on every machine, and those
between two files are among them. WHAT is `finetune`; `steps`, the same with steps as the only events; or `save`.
"""

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


if __name__ == "__main__":
    signum, count, what, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    if what == "save":
        sys.exit(save(sys.argv[5], folder, int(sys.argv[6]), sys.argv[7:], count, signum))
    sys.exit(finetune(arm(signum, count, folder if what == "finetune" else None), sys.argv[6:], float(sys.argv[5])))
