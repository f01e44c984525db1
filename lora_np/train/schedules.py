"""The learning rate over the steps of a run: up in a straight line, then down, as in BERT's recipe."""


def linear_schedule(step, total, peak, warmup=0.06):
    """Return the learning rate of step 0, 1, ..., total - 1.

    Parameters
    ----------
    step, total : int
    peak : float
        The highest learning rate.
    warmup : float
        Share of the steps on the way up.
    """
    rising = max(1, round(warmup * total))
    return peak * min((step + 1) / rising, (total - step) / max(1, total - rising))
