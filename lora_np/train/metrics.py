"""What a count of right and wrong answers says beside accuracy, which hides how the rarer classes fare.

Write C_ij for how many of class i were taken for class j.

**F1** of class k is the harmonic mean of precision, C_kk / sum_i C_ik, and recall, C_kk / sum_j C_kj; both fractions
together are 2 C_kk / (sum_i C_ik + sum_j C_kj). It is 0 where C_kk is, so without a positive, too. With two classes
"the" F1 is that of class 1. **Macro F1** is the mean over the classes, each counting the same, of all that occur
among labels or answers.

**Matthews' correlation** is that of two indicators, for any number of classes. With n cases, c of them right, t_k
labels and p_k answers of class k, n^2 times the covariances of labels with answers, labels with labels and answers with
answers are
    c n - sum_k t_k p_k,    n^2 - sum_k t_k^2,    n^2 - sum_k p_k^2,
and MCC is the first over the root of the product of the others: 1 if all are right, about 0 by chance, whatever the
shares of the classes. It is 0 where labels or answers are all of one class: those correlate with nothing.

>>> counts = confusion([0, 0, 1, 1, 1], [0, 1, 1, 1, 1], 2)
>>> counts.tolist()
[[1, 1], [0, 3]]
>>> f1_by_class(counts), f1_macro(counts), matthews(counts)  # 2 / 3 and 6 / 7, their mean, 3 / sqrt(24)
([0.6666666666666666, 0.8571428571428571], 0.7619047619047619, 0.6123724356957945)

Values are those of scikit-learn's `f1_score` (binary, macro) and `matthews_corrcoef`, with zero_division=0.

Source: van Rijsbergen, Information Retrieval, 2nd edition, 1979, chapter 7 (E = 1 - F); Matthews 1975, Biochim.
Biophys. Acta 405:442; Gorodkin 2004, Comput. Biol. Chem. 28:367, equation 8 (several classes).
"""

import math

import numpy as np


def confusion(labels, answers, classes):
    """Return the integers C (classes, classes): how often each label, a row, got each answer, a column."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (np.asarray(labels), np.asarray(answers)), 1)
    return counts


def f1_by_class(counts):
    """Return the F1 of each class; 0 of one that has no right answer."""
    either = counts.sum(axis=0) + counts.sum(axis=1)
    return [2 * int(right) / int(both) if right else 0.0 for right, both in zip(counts.diagonal(), either)]


def f1_macro(counts):
    """Return the mean F1 of the classes that occur among labels or answers."""
    occur = (counts.sum(axis=0) + counts.sum(axis=1)) > 0
    return math.fsum(f1_by_class(counts)) / int(occur.sum())


def matthews(counts):
    """Return Matthews' correlation coefficient, -1 to 1; 0 if labels or answers are all of one class."""
    n, right = int(counts.sum()), int(counts.trace())
    labels, answers = ([int(count) for count in counts.sum(axis=axis)] for axis in (1, 0))  # of any size, exactly
    both = right * n - sum(t * p for t, p in zip(labels, answers))
    spread = (n * n - sum(t * t for t in labels)) * (n * n - sum(p * p for p in answers))
    return both / math.sqrt(spread) if spread else 0.0
