"""`pretrain-digits`: make the embedded model again from random numbers and the upright digits; its data file too."""

import io
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lora_np.cli.terminal import accuracy_line, heading, line, note, option
from lora_np.datasets.named import load_data
from lora_np.datasets.tokenizers import load_tokenizer
from lora_np.experiments.recipe import bounded
from lora_np.experiments.record import versions
from lora_np.files import read_json, write_bytes, write_json
from lora_np.files.claim import claimed
from lora_np.formats.huggingface import save_model
from lora_np.formats.pretrained import model_folder
from lora_np.model.architectures import vit
from lora_np.model.tree import freeze, unfreeze
from lora_np.train.backends.threads import cores, worker_pool
from lora_np.train.evaluate import measured, predict
from lora_np.train.loop import Plan, Training
from lora_np.train.purposes import Purpose

RECIPE = {"lr": 2e-3, "batch_size": 64, "weight_decay": 0.01, "label_smoothing": 0.1}


def add_arguments(parser):
    parser.add_argument("--out", type=Path, required=True, help="the new model's folder")
    parser.add_argument("--epochs", type=int, default=300, help="passes over the 1,000 training images (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--workers", type=int, default=cores(), help="threads (default: the number of cores)")
    words = "write digits.npz too, from scikit-learn's load_digits"
    parser.add_argument("--with-data", action="store_true", help=words)


def main(args):
    bounded(vars(args), option)
    plan = Plan(epochs=args.epochs, seed=args.seed, shares=args.workers, **RECIPE)
    with claimed(args.out, note):
        if (args.out / "config.json").exists():
            raise ValueError(f"{args.out} holds a model already; choose another folder for --out.")
        return pretrain(args, plan)


def pretrain(args, plan):
    if args.with_data:
        write_data(args.out / "digits.npz")
    train, dev, test = load_data("digits")
    config = read_json(model_folder("digits") / "config.json")
    rng, tokenizer = np.random.default_rng([args.seed, Purpose.INITIAL]), load_tokenizer("digits")
    model = unfreeze(vit(config, labels=len(train.classes), rng=rng), "all")

    def augment(rows, rng):
        return list(tokenizer(moved(train.inputs[rows], rng)))

    training = Training(model, list(tokenizer(train.inputs)), train.labels, plan, augment)
    heading(f"Pretraining on {len(train):,} upright digits, each moved by up to one pixel anew in every epoch")
    began = time.perf_counter()
    for step in tqdm(training.steps(), total=training.total, unit="step", disable=None, leave=False):
        if step.number % (training.total // 10 or 1) == 0:
            line(f"step {step.number}", f"loss {step.loss:.3f}")
    metrics = {"epochs": args.epochs, "seed": args.seed, "workers": args.workers, **RECIPE}
    with worker_pool(args.workers) as run:
        for name, part in (("dev", dev), ("test", test)):
            metrics[name] = measured(predict(model, list(tokenizer(part.inputs)), run), part.labels)
            accuracy_line(name, metrics[name])
    metrics["seconds"] = round(time.perf_counter() - began, 1)
    save_model(freeze(model), args.out)
    write_json(args.out / "metrics.json", {**metrics, "versions": versions()})
    line("written", str(args.out))
    return 0


def moved(images, rng):
    """Return each image (n, H, W) moved by -1, 0 or 1 pixel in both directions; what comes in is empty paper."""
    n, H, W = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    down, right = rng.integers(0, 3, (2, n))
    return np.stack([image[y : y + H, x : x + W] for image, y, x in zip(padded, down, right)])


def write_data(path):
    """Write the images and labels that scikit-learn carries, small and without pickle."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError("--with-data takes the digits from scikit-learn: pip install scikit-learn") from error
    digits = load_digits()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=digits.images.astype(np.uint8), labels=digits.target.astype(np.uint8))
    write_bytes(path, buffer.getvalue())
