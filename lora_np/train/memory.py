"""Where the memory of a step goes, and how a process keeps what it has."""

import ctypes

import numpy as np

from lora_np.gradcheck import leaves
from lora_np.model.batch import Batch
from lora_np.model.tree import parameters
from lora_np.train.step import pieces_of, split_by_tokens

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # of mallopt, as in glibc's malloc.h


def keep_freed_memory():
    """Let this process keep the memory of arrays that it frees, instead of handing it back to the system.

    A step frees its activations and takes as many again. What goes back to the system in between comes again page by
    page, each cleared first; the guide on speed says what that costs. The threads also share one heap, so that one
    uses what another has freed. The commands of `lora_np` call this when they start; in a program of your own call it
    before the first large array. It holds for the whole process, which then never shrinks. Where the C library is not
    glibc (macOS, Windows), nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function; Windows: no such library
        return
    mallopt(ARENA_MAX, 1)
    mallopt(TRIM_THRESHOLD, 2**30)
    mallopt(MMAP_THRESHOLD, 2**25)  # the largest that glibc takes: 32 MB


def bytes_by_kind(model, optimiser, sequences, max_tokens=None):
    """Return the bytes of the arrays that a training step holds, by what they are: weights (with the trained ones),
    trained, gradients, optimiser, activations.

    The sequences are a share of a batch, of which the first piece of about `max_tokens` is at work at once; how many
    `tokens` that has stands beside the bytes.
    """
    lengths = [len(sequence) for sequence in sequences]
    piece = [sequences[k] for k in split_by_tokens(lengths, pieces_of(lengths, max_tokens))[0]]
    _, cache = model.forward(Batch.of(piece), np.random.default_rng(0))  # with the masks of dropout
    parts = (part for array in parameters(model).values() for _, part in leaves(array) if isinstance(part, np.ndarray))
    weights = {id(array): array for array in map(owner, parts)}
    held = {id(array): array for array in (owner(leaf) for _, leaf in leaves(cache) if isinstance(leaf, np.ndarray))}
    trained = parameter_bytes(model, trainable_only=True)
    return {
        "weights": sum(array.nbytes for array in weights.values()),
        "trained": trained,
        "gradients": trained,
        "optimiser": sum(array.nbytes for moments in (optimiser.m, optimiser.v) for array in moments.values()),
        "activations": sum(array.nbytes for key, array in held.items() if key not in weights),
        "tokens": sum(map(len, piece)),
    }


def parameter_bytes(model, trainable_only=False):
    """Return the bytes that parameters take, compressed ones as they are; `count_parameters` counts numbers."""
    return sum(array.nbytes for array in parameters(model, trainable_only).values())


def owner(array):
    """Return the array whose memory a view shows."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
