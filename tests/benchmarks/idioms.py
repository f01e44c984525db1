"""What each idiom of speed in `lora_np/ops` saves of a training step:  python tests/benchmarks/idioms.py   (a minute)

All calls of one step are replayed, by the idiom and by the plain line in turn. An idiom stays where a step would take
3 % longer without it, on digits or on MiniLM. Run it with OPENBLAS_NUM_THREADS=1, as a training share runs.
"""

import statistics
import sys
import time

import numpy as np

import lora_np as lnp
from lora_np.ops import attention, gelu, rows
from lora_np.train.memory import keep_freed_memory

erf = sys.modules["lora_np.ops.erf"]  # the file; lora_np.ops.erf is the function in it
SECONDS = 5


def plain_sum(x):
    return x.sum(axis=-1, keepdims=True)


def plain_horner(coefficients, t):
    y = coefficients[0]
    for coefficient in coefficients[1:]:
        y = y * t + coefficient
    return y


def one_formula(x):
    """That of float64 in float32, too."""
    sign = np.copysign(np.float32(1.0), x)
    z = x * sign
    return sign * (1.0 - np.exp(-z * z) * erf.horner(erf.R_DOUBLE, 1.0 - 2.0 * erf.K / (z + erf.K)))


IDIOMS = (  # where it is called from, its name, the plain line
    ((rows, attention), "row_sum", plain_sum),
    ((erf,), "horner", plain_horner),
    ((gelu,), "erf", one_formula),
)


def step_of(source, data, size):
    """Return a training step of `lora_np finetune` on the first examples."""
    model, train = lnp.load_pretrained(source), lnp.load_data(data)[0]
    sequences, labels = lnp.load_tokenizer(source)(train.inputs[:size]), train.labels[:size]
    if source == "minilm":
        model = lnp.with_head(model, 2, "mean", np.random.default_rng(0))
    model = lnp.inject(model, lnp.LoRAConfig(lora_alpha=16), np.random.default_rng(1))
    batch = lnp.Batch.of(list(sequences))
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), 1e-3)

    def step():
        logits, cache = model.forward(batch, np.random.default_rng(2))
        _, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))

    return step


def calls_in(step, modules, name):
    """Return the arguments of all calls of an idiom in one step."""
    found, idiom = [], getattr(modules[0], name)

    def record(*args):
        found.append(args)
        return idiom(*args)

    for module in modules:
        setattr(module, name, record)
    step()
    for module in modules:
        setattr(module, name, idiom)
    return found


def in_turn(*actions):
    """Return a list of seconds for each action, run in turn."""
    seconds, end = [[] for _ in actions], time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        for action, found in zip(actions, seconds):
            started = time.perf_counter()
            action()
            found.append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    keep_freed_memory()
    for source, data, size in (("digits", "digits-mixed", 64), ("minilm", "movie-reviews", 32)):
        step = step_of(source, data, size)
        step()
        (whole,) = in_turn(step)
        print(f"{source}: a step takes {1000 * min(whole):.1f} ms")
        for modules, name, plain in IDIOMS:
            calls, idiom = calls_in(step, modules, name), getattr(modules[0], name)
            times = in_turn(lambda: [idiom(*c) for c in calls], lambda: [plain(*c) for c in calls])  # noqa: B023
            for word, of in (("least", min), ("median", statistics.median)):
                mine, other = map(of, times)
                share = (other - mine) / of(whole)
                print(
                    f"  {name:8} {word:6} {1000 * mine:7.2f} ms, plain {1000 * other:7.2f} ms: {share:+.1%} of a step"
                )
