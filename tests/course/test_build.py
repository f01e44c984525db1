"""From a source cell to what is handed out, and to what nbgrader gets."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "chapters"))
build = pytest.importorskip("build", reason="needs pip install -e .[author]", exc_type=ImportError)

SOURCE = '''def double(x):
    """Return 2 x."""
    # BEGIN SOLUTION
    y = x + x
    return y
    # END SOLUTION'''
BUG = """def double(x):
    # BEGIN SOLUTION
    return 2 * x
    # END SOLUTION
    # BEGIN GIVEN
    #| y = 3 * x
    #| if y:
    #|     return y
    # END GIVEN"""


def test_a_lesson_has_the_solution_without_marks():
    assert build.solved(SOURCE) == 'def double(x):\n    """Return 2 x."""\n    y = x + x\n    return y'
    assert build.solved(BUG) == "def double(x):\n    return 2 * x"


def test_a_learner_gets_a_stub():
    stub = '    # YOUR CODE HERE\n    raise NotImplementedError("replace this line")'
    assert build.handed_out(SOURCE) == f'def double(x):\n    """Return 2 x."""\n{stub}'


def test_or_the_code_with_the_bug():
    assert build.handed_out(BUG) == "def double(x):\n    y = 3 * x\n    if y:\n        return y"


def test_nbgrader_gets_its_own_marks():
    assert "### BEGIN SOLUTION\n    y = x + x" in build.for_nbgrader(SOURCE)


def test_ids_are_the_same_in_every_build_and_unique():
    cells = [[build.code("x = 1"), build.code("x = 1"), build.code("y", role="double")] for _ in range(2)]
    ids = [[cell.id for cell in build.notebook(book).cells] for book in cells]
    assert ids[0] == ids[1] and len(set(ids[0])) == 3 and ids[0][2] == "double"
