"""What a model is trained for: a class for each kind of answer, and `loss_of`, which chooses among them as transformers
does, by the head and by the configuration's problem_type.

Each checks its labels before a run, says over how many rows or numbers of a batch the mean is taken (`counted`), has a
forward, the sum of the losses of some sequences, and a backward; `decided` is what a model's output says.
"""

from dataclasses import dataclass

import numpy as np

from lora_np.model.batch import is_list
from lora_np.model.heads import ClassifierHead, TiedHead, TokenHead
from lora_np.ops import (
    cross_entropy_backward,
    cross_entropy_forward,
    sigmoid_cross_entropy_backward,
    sigmoid_cross_entropy_forward,
    squared_error_backward,
    squared_error_forward,
)
from lora_np.ops.cross_entropy import IGNORED


@dataclass(frozen=True)
class Classification:
    """The mean cross entropy of one row of logits a sequence. Labels are integers, one a sequence."""

    label_smoothing: float = 0.0
    backward = staticmethod(cross_entropy_backward)

    def check(self, model, sequences, labels):
        """Raise a ValueError unless the labels are right for these sequences, and the model can learn from them."""
        classes, labels = outputs_of(model), np.asarray(labels)
        if not len(sequences) or labels.shape != (len(sequences),) or labels.dtype.kind not in "iu":
            raise ValueError(
                f"training needs an integer label for each sequence, but there are {len(sequences)} sequences, and"
                f" labels of shape {labels.shape} and dtype {labels.dtype}."
            )
        check_classes(labels, classes)

    def counted(self, sequences, labels):
        return len(sequences)

    def forward(self, output, batch, labels):
        return cross_entropy_forward(output, labels, reduction="sum", label_smoothing=self.label_smoothing)

    def decided(self, output):
        """Return the class of each row."""
        return output.argmax(axis=1)


@dataclass(frozen=True)
class MultiLabelClassification:
    """The mean cross entropy of several labels at once: each is there or not. Labels are (S, L), from 0 to 1."""

    backward = staticmethod(sigmoid_cross_entropy_backward)

    def check(self, model, sequences, labels):
        labels = numbers(model, sequences, labels, "multi_label_classification", "0 (no) or 1 (yes)")
        if not 0 <= labels.min() <= labels.max() <= 1:
            raise ValueError(
                f"labels run from {labels.min()} to {labels.max()}, but each of several is 0 (no) or 1 (yes)."
            )

    def counted(self, sequences, labels):
        return np.size(labels)

    def forward(self, output, batch, labels):
        return sigmoid_cross_entropy_forward(output, labels.astype(output.real.dtype), reduction="sum")

    def decided(self, output):
        """Return a boolean array (S, L): yes where its probability, the sigmoid of the output, is above a half."""
        return output > 0


@dataclass(frozen=True)
class Regression:
    """The mean squared error. Labels are numbers, (S,) or (S, L)."""

    backward = staticmethod(squared_error_backward)

    def check(self, model, sequences, labels):
        numbers(model, sequences, labels, "regression", "a number")

    def counted(self, sequences, labels):
        return np.size(labels)

    def forward(self, output, batch, labels):
        return squared_error_forward(output, labels.reshape(output.shape).astype(output.real.dtype), reduction="sum")

    def decided(self, output):
        """Return the numbers themselves, (S,) if there is one a row."""
        return output[:, 0] if output.shape[1] == 1 else output


@dataclass(frozen=True)
class TokenClassification:
    """The mean cross entropy of the tokens that have a label: an array (T,) a sequence, -100 where there is none."""

    label_smoothing: float = 0.0
    backward = staticmethod(cross_entropy_backward)

    def check(self, model, sequences, labels):
        given = () if labels is None else labels
        if not len(sequences) or list(map(np.size, given)) != list(map(len, sequences)):
            raise ValueError(
                "a classifier of tokens needs a list with an array of labels for each sequence, one a token, but there"
                f" are {len(sequences)} sequences and labels {labels!r:.60}; IGNORED (-100) is that of a token that has"
                " none."
            )
        for k, row in enumerate(map(np.asarray, given)):
            if row.dtype.kind not in "iu" or not (row != IGNORED).any():
                raise ValueError(
                    f"the labels of sequence {k} are {row!r:.60}; expected integers, and at least one token that has a"
                    f" label, which is not {IGNORED}."
                )
            check_classes(row[row != IGNORED], model.head.classifier.W.shape[1])

    def counted(self, sequences, labels):
        return sum(int((row != IGNORED).sum()) for row in labels)

    def forward(self, output, batch, labels):
        return cross_entropy_forward(output, batch.pack(labels), IGNORED, "sum", self.label_smoothing)

    def decided(self, output):
        """Return the class of each token, an array (T,) a sequence."""
        return [rows.argmax(axis=1) for rows in output]


@dataclass(frozen=True)
class NextToken:
    """The mean cross entropy of each token, given those before it: how a GPT-2 is trained. There are no labels."""

    backward = staticmethod(cross_entropy_backward)

    def check(self, model, sequences, labels):
        if not isinstance(getattr(model, "head", None), TiedHead):
            raise ValueError("NextToken needs a GPT-2 with its output, logits over the words; load one, or make one.")
        if labels is not None or not sequences or min(map(len, sequences)) < 2:
            raise ValueError(
                "NextToken takes sequences of at least two tokens, each the label of the one before it, and no labels"
                f" beside (None), but it was given {len(sequences)} sequences and labels {labels!r:.60}."
            )

    def counted(self, sequences, labels):
        return sum(len(sequence) - 1 for sequence in sequences)

    def forward(self, output, batch, labels):
        following = [np.append(ids[1:], IGNORED) for ids in batch.unpack(batch.content)]
        return cross_entropy_forward(output, batch.pack(following), IGNORED, reduction="sum")


BY_PROBLEM = {
    "single_label_classification": Classification,
    "multi_label_classification": MultiLabelClassification,
    "regression": Regression,
}


def loss_of(model, labels=None, label_smoothing=0.0):
    """Return the loss for which a model's head is there.

    Of a head that classifies sequences config.json says it, as problem_type. Where it does not, transformers' rule
    holds: one output is a regression; of several, labels that are integers are classes, and floats are several labels
    at once.

    Parameters
    ----------
    model : Transformer
    labels : array, optional
    label_smoothing : float
        For classes.
    """
    head, problem = getattr(model, "head", None), getattr(model, "config", {}).get("problem_type")
    classifier = getattr(head, "classifier", None)
    if problem is None and classifier is not None and classifier.W.shape[1] == 1:
        problem = "regression"
    if problem is None and getattr(labels, "ndim", 0) == 2 and labels.dtype.kind == "f":
        problem = "multi_label_classification"
    kind = TokenClassification if isinstance(head, TokenHead) else BY_PROBLEM.get(problem, Classification)
    if hasattr(kind, "label_smoothing"):
        return kind(label_smoothing)
    if label_smoothing:
        raise ValueError(f"label_smoothing = {label_smoothing} is for classes, but this model is for {problem}.")
    return kind()


def as_rows(labels):
    """Return labels as an array with an entry for each sequence; those of tokens, of unequal lengths, are arrays."""
    if labels is None:
        return None
    if isinstance(labels, np.ndarray) or not is_list(labels) or len({np.shape(row) for row in labels}) < 2:
        return np.asarray(labels)
    rows = np.empty(len(labels), object)
    for k, row in enumerate(labels):
        rows[k] = np.asarray(row)
    return rows


def outputs_of(model):
    """Return how many numbers a model gives a sequence; raise if it does not classify them."""
    head = getattr(model, "head", None)
    if not isinstance(head, ClassifierHead) or head.classifier is None:
        raise ValueError(
            "training here needs a model with a classifier, one row of logits a sequence, but it has none; add one"
            " by lora_np.with_head(model, labels, rng=rng), or train a GPT-2 by loss=NextToken()."
        )
    return head.classifier.W.shape[1]


def check_classes(labels, classes):
    if not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, but the classes are 0 to {classes - 1}.")


def numbers(model, sequences, labels, problem, each):
    """Return labels that are numbers, as an array; raise unless there is one for each output of each sequence."""
    outputs, labels = outputs_of(model), np.asarray(labels)
    shapes = [(len(sequences), outputs)] + [(len(sequences),)] * (outputs == 1 and problem == "regression")
    fitting = labels.size and labels.shape in shapes and labels.dtype.kind in "biuf"
    if not fitting or not np.isfinite(labels).all():
        raise ValueError(
            f"{problem} needs labels of shape {' or '.join(map(str, shapes))}, {each} for each output of each, but"
            f" they are {'not finite' if fitting else f'of shape {labels.shape} and dtype {labels.dtype}'}."
        )
    return labels
