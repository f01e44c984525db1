"""The check as a test: one line in pytest, and the whole report where it fails."""

from lora_np.gradcheck.check import check


def assert_gradients(forward, backward, inputs, fixed={}, rng=None):  # noqa: B006 - never changed
    """Raise AssertionError with the report of `check`, likely causes included, unless every gradient is right.

    Parameters
    ----------
    forward, backward, inputs, fixed, rng
        As for `check`.

    Raises
    ------
    AssertionError
        If `check` finds anything wrong.
    ValueError, TypeError
        If there is nothing to check.
    """
    __tracebackhide__ = True  # pytest then points at the caller's line
    report = check(forward, backward, inputs, fixed, rng)
    if not report.ok:
        raise AssertionError(f"\n{report}")
