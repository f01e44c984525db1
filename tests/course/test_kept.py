"""Right answers are kept as text that runs by itself, and what else stands in their file stays."""

import importlib.util
import sys

import numpy as np
import pytest

import lora_np as lnp
from lora_np.course import kept

TEXT = '''
import math

import numpy as np
import numpy.linalg

from lora_np import ops
from lora_np.ops.linear import LinearCache as Kept

ROOT, x = 0.5**0.5, np.ones(3)  # x is a variable of the notebook, and of no answer
shares = {"a": 1}


class Pair:
    def __init__(self, first):
        self.first = half(first)


def half(x):
    return x / DIVISOR


def gelu_forward(x):
    """With helpers, imports and a constant."""

    def inner(z):
        return 0.5 * (1 + ops.erf(z * ROOT))

    return Pair(x).first, [inner(x) for x in np.atleast_2d(x)], math.pi, numpy.linalg.norm(x), Kept(x, x)


def uses_a_variable(y):
    return y + shares["a"]


DIVISOR = 2
again = half


def uses_another_name(y):
    return again(y)
'''


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Names as a notebook has them, and a place for its answers."""
    (tmp_path / "cells.py").write_text(TEXT)
    monkeypatch.setenv(kept.VARIABLE, str(tmp_path / "own" / ".." / "my_answers.py"))
    (tmp_path / "own").mkdir()
    monkeypatch.setattr(kept, "SESSION", {})
    spec = importlib.util.spec_from_file_location("cells", tmp_path / "cells.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "cells", module)
    spec.loader.exec_module(module)
    return module


def test_a_kept_text_runs_by_itself(notebook, monkeypatch):
    kept.keep("gelu_forward", notebook.gelu_forward)
    wanted = notebook.gelu_forward(np.ones(2))
    assert kept.kept("gelu_forward") is notebook.gelu_forward
    monkeypatch.setattr(kept, "SESSION", {})  # another process
    monkeypatch.delitem(sys.modules, "cells")
    again = kept.kept("gelu_forward")(np.ones(2))
    assert np.array_equal(again[0], wanted[0]) and np.array_equal(again[1], wanted[1]) and again[2:4] == wanted[2:4]
    text = kept.path().read_text()
    assert "# %% gelu_forward\nimport math\n" in text and "With helpers" in text
    assert "DIVISOR = 2" in text and "ROOT = 0.7" in text and "LinearCache as Kept" in text
    assert "shares" not in text and "ones" not in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("uses_a_variable", "it uses shares, a variable of the notebook (dict)"),
        ("uses_another_name", "it calls half by another name, again"),
    ],
)
def test_what_does_not_run_by_itself_is_not_kept_and_why(notebook, name, words):
    with pytest.raises(kept.NotKept) as told:
        kept.keep(name, getattr(notebook, name))
    assert words in str(told.value)
    assert not kept.path().exists()
    assert kept.kept(name) is getattr(notebook, name)  # this process goes on with it


def test_a_function_without_a_text_is_not_kept(notebook):
    scope = {}
    exec("def linear_forward(x, W, b):\n    return x @ W + b, None", scope)
    with pytest.raises(kept.NotKept, match="the text of linear_forward cannot be read"):
        kept.keep("linear_forward", scope["linear_forward"])


def test_a_kept_file_may_be_edited(notebook):
    kept.keep("half", notebook.half)
    kept.keep("gelu_forward", notebook.gelu_forward)
    file = kept.path()
    file.write_text(
        file.read_text().replace("return x / DIVISOR", "return x / 4", 1).replace('"""Your', '"""Own words. Your')
    )
    assert kept.kept("half")(8) == 2 and kept.kept("gelu_forward") is notebook.gelu_forward
    kept.keep("gelu_forward", notebook.Pair)  # another answer to the same exercise
    text = file.read_text()
    assert "Own words" in text and "x / 4" in text and text.count("# %% ") == 2 and "With helpers" not in text
    kept.keep("half", notebook.half)
    assert kept.kept("half") is notebook.half
    file.write_text(file.read_text().replace("return x", "return ("))
    assert kept.kept("half") is None  # it does not run: as if there were none


def test_nothing_is_written_outside_a_notebook(notebook, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for value in ("", None):
        monkeypatch.setenv(kept.VARIABLE, value) if value is not None else monkeypatch.delenv(kept.VARIABLE)
        monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
        kept.keep("half", notebook.half)
        assert kept.path() is None and kept.kept("half") is notebook.half and not kept.sections()
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    assert str(kept.path()) == kept.FILE


NUMERICAL = """
import numpy as np

from lora_np.course.exercises.choose_step import choose_step

{own}
def numerical_gradient(function, x):
    x, gradient = x.copy(), np.empty(x.shape)
    for index in np.ndindex(x.shape):
        middle, values = x[index], []
        h = choose_step(4) * max(1, abs(middle))
        for k in (-2, -1, 1, 2):
            x[index] = middle + k * h
            values.append(function(x))
        x[index] = middle
        gradient[index] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    return gradient
"""


@pytest.mark.parametrize("own", ["", "def choose_step(order):\n    return 2.2e-16 ** (1 / (order + 1))\n\n\n"])
def test_a_function_of_the_course_in_a_kept_text_is_said(own, notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_NP_CACHE", str(tmp_path))
    (tmp_path / "cells.py").write_text(NUMERICAL.format(own=own))
    notebook.__spec__.loader.exec_module(notebook)
    verdict = lnp.course.check("numerical_gradient", notebook.numerical_gradient)
    words = "" if own else ", with the course's own choose_step, as yours was not right yet"
    assert verdict.ok and verdict.more == f"kept in my_answers.py, for the chapters to come{words}"


def test_a_file_that_cannot_be_written_is_said(notebook, monkeypatch, tmp_path):
    monkeypatch.setenv(kept.VARIABLE, str(tmp_path / "cells.py" / "my_answers.py"))
    with pytest.raises(kept.NotKept, match="cannot be written"):
        kept.keep("half", notebook.half)
