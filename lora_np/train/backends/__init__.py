"""What executes the shares of a batch: a backend is a `map`, `run(function, items, spread)`, that returns a list."""


def here(function, items, spread=False):
    """One call after the other, in place: the backend that needs no threads."""
    return list(map(function, items))
