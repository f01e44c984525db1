"""`gradcheck FILE`: somebody's own functions, checked by their names."""

import pytest

from lora_np.cli.commands import main

GOOD = """
import numpy as np
rng = np.random.default_rng(0)

def scale_forward(x, a, ids):
    return a * x[ids], (x, a, ids)

def scale_backward(dy, cache):
    x, a, ids = cache
    dx = np.zeros_like(x)
    np.add.at(dx, ids, a * dy)
    return dx, (dy * x[ids]).sum(axis=0)

scale_inputs = {"x": rng.standard_normal((4, 3)), "a": rng.standard_normal(3)}
scale_fixed = {"ids": np.array([2, 0, 2])}

def helper_forward():  # without a backward: no pair
    pass
"""


def test_right_functions_pass(tmp_path, capsys):
    (tmp_path / "mylayer.py").write_text(GOOD)
    assert main(["gradcheck", str(tmp_path / "mylayer.py")]) == 0
    shown = capsys.readouterr().out
    assert "scale      x, a" in shown and "helper" not in shown and "every gradient agrees" in shown


def test_a_wrong_one_fails_with_its_cause(tmp_path, capsys):
    (tmp_path / "mylayer.py").write_text(GOOD.replace("np.add.at(dx, ids, a * dy)", "dx[ids] = a * dy"))
    assert main(["gradcheck", str(tmp_path / "mylayer.py")]) == 1
    shown = capsys.readouterr().out
    assert "FAILED: scale" in shown and "likely cause: layout, not_accumulated" in shown and "1 failed" in shown


@pytest.mark.parametrize(
    ("text", "received"),
    [
        (None, "there is no file"),
        ("x = 1", "no function NAME_forward with a NAME_backward"),
        ("1 / 0", "does not run (ZeroDivisionError: division by zero)"),
        ("import torch_that_is_not_there", "does not run (ModuleNotFoundError"),
        (GOOD.replace("scale_inputs =", "inputs ="), "names no example inputs for scale_forward; add scale_inputs"),
        (GOOD.replace('"a": rng.standard_normal(3)', '"a": "much"'), "'a' is of type str"),
    ],
)
def test_files_that_cannot_be_checked_are_one_sentence(text, received, tmp_path, capsys):
    if text is not None:
        (tmp_path / "mylayer.py").write_text(text)
    assert main(["gradcheck", str(tmp_path / "mylayer.py")]) == 2
    shown = capsys.readouterr().err.strip()
    assert received in shown and len(shown.splitlines()) == 1, shown


@pytest.mark.parametrize(
    ("old", "new", "code", "received"),
    [
        ("import numpy as np", "import sys, numpy as np\nsys.exit()", 2, "ends the program (SystemExit()) before"),
        ("import numpy as np", "import numpy as np\nexit(0)", 2, "ends the program (SystemExit(0)) before"),
        ("    return a * x", "    raise SystemExit\n    return a * x", 2, "scale: the forward raises"),
        ("    x, a, ids = cache", "    raise SystemExit(0)", 1, "backward: raises SystemExit: 0 (line 9 of mylayer.py"),
    ],
)
def test_a_file_that_ends_the_program_is_no_success(old, new, code, received, tmp_path, capsys):
    """It ended with exit code 0, without a verdict."""
    (tmp_path / "mylayer.py").write_text(GOOD.replace(old, new, 1))
    assert main(["gradcheck", str(tmp_path / "mylayer.py")]) == code
    shown = capsys.readouterr()
    assert received in (shown.out if code == 1 else shown.err)


def test_help_says_that_the_file_is_run(capsys):
    with pytest.raises(SystemExit):
        main(["gradcheck", "--help"])
    assert "The file is run, with all that it does" in " ".join(capsys.readouterr().out.split())
