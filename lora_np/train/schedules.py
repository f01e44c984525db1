"""The learning rate over the steps of a run: up in a straight line, then down, as in BERT's recipe."""


def linear_schedule(step, total, peak, warmup=0.06):
    """Return the learning rate of step 0, 1, ..., total - 1; the share `warmup` of the steps goes up to `peak`.

    Raises
    ------
    ValueError
        If there is no such step or share.
    """
    if not (0 <= step < total and 0.0 <= warmup <= 1.0):
        raise ValueError(f"expected a step in 0..total - 1 and warmup in 0..1, but got {step} of {total} and {warmup}.")
    rising = max(1, round(warmup * total))
    return peak * min((step + 1) / rising, (total - step) / max(1, total - rising))
