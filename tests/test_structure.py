"""The rules of the design that a machine can check: layers, shape comments, caches, sizes, what an import loads."""

import ast
import importlib.util
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import numpy as np
import pytest

from lora_np.ops.cases import cases

ROOT = Path(__file__).resolve().parents[1] / "lora_np"
# From the ground up: a module imports from its own package, and from those left of a `<`.
LAYERS = """ops, files < gradcheck, compress < fetch, model < adapt < formats < datasets < train < experiments
< figures < course < cli < __main__"""
LEVEL = {name: level for level, names in enumerate(LAYERS.split("<")) for name in re.findall(r"\w+", names)}
MODULES = sorted(ROOT.rglob("*.py"))
SUBJECT = ROOT / "adapt" / "lora.py"
FIT = ROOT / "ops" / "fit.py"  # what all operations ask of their arguments; no operation itself
OPS = sorted(path for path in FIT.parent.glob("*.py") if path.name not in ("__init__.py", "cases.py", FIT.name))

# Bounds on code lines: no blanks, comments or docstrings. Raise one only with a reason.
MAX_FILE_OF_OPS = 90
MAX_FUNCTION = 30
MAX_MATHEMATICS = 800  # ops and plain LoRA together: one evening's reading


def layer_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(tree):
    """Yield the full names of modules that a file imports from this package, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or node.module, "relative imports name a module"
            yield f"{'.' * node.level}{node.module}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_layers_below_its_own(path):
    layer = layer_of(path)
    if layer == "__init__":
        return
    assert layer in LEVEL, f"{path.name} has no layer"
    for name in imports(ast.parse(path.read_text())):
        other = (name.split(".") + [""])[1]
        if name.startswith("lora_np.") and other != layer:
            assert LEVEL[other] < LEVEL[layer], f"{layer} must not import {name}"


ON_REQUEST = {("report.py", "matplotlib")}  # only when a report is asked for its plot


def test_what_is_imported_on_request_is_not_imported_before():
    code = "import sys, lora_np.gradcheck; print('matplotlib' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "False"


@pytest.mark.parametrize("layer", ["ops", "gradcheck", "model"])
def test_the_core_needs_numpy_alone(layer):
    for path in (ROOT / layer).glob("*.py"):
        for name in imports(ast.parse(path.read_text())):
            top = name.split(".")[0]
            allowed = top in ("", "numpy", "lora_np") or top in sys.stdlib_module_names
            assert allowed or (path.name, top) in ON_REQUEST, f"{path.name} imports {name}"


def test_importing_the_package_loads_numpy_only():
    code = "import sys, numpy; before = set(sys.modules); import lora_np; print([m for m in set(sys.modules) - before])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert {name.partition(".")[0] for name in ast.literal_eval(loaded)} <= {"lora_np", "importlib"}


def test_every_public_name_exists():
    import lora_np

    for name in lora_np.__all__:
        assert getattr(lora_np, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = lora_np.nonsense


def code_lines(node, source):
    """Count the lines of a node that hold code."""
    docs = {
        line
        for child in ast.walk(node)
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant) and isinstance(child.value.value, str)
        for line in range(child.lineno, child.end_lineno + 1)
    }
    lines = source.splitlines()
    start, stop = getattr(node, "lineno", 1), getattr(node, "end_lineno", len(lines))
    held = (k for k in range(start, stop + 1) if k not in docs)
    return sum(1 for k in held if lines[k - 1].strip() and not lines[k - 1].strip().startswith("#"))


def test_sizes(capsys):
    read = (*OPS, FIT, SUBJECT)
    files = {path: code_lines(ast.parse(text := path.read_text()), text) for path in read}
    total = sum(files.values())
    with capsys.disabled():
        print(f"\ncode lines of ops and lora.py: {total} of {MAX_MATHEMATICS}")
    assert total <= MAX_MATHEMATICS
    for path in (*OPS, FIT):
        assert files[path] <= MAX_FILE_OF_OPS, f"{path.name} has {files[path]} code lines"
    for path in (*read, *(ROOT / "model").glob("*.py")):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                count = code_lines(node, source)
                assert count <= MAX_FUNCTION, f"{path.name}: {node.name} has {count} code lines"


def cache_classes(tree):
    return {
        node.name: [field.target.id for field in node.body if isinstance(field, ast.AnnAssign)]
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id == "NamedTuple" for base in node.bases)
    }


@pytest.mark.parametrize("path", OPS, ids=lambda path: path.stem)
def test_a_backward_unpacks_the_whole_cache_in_order_on_its_first_line(path):
    tree = ast.parse(path.read_text())
    fields = list(cache_classes(tree).values())
    assert fields, f"{path.name} has no cache"
    backwards = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.endswith("_backward")]
    assert backwards
    for function in backwards:
        first = function.body[1]  # after the docstring
        assert isinstance(first, ast.Assign) and ast.unparse(first.value) == "cache", (
            f"{function.name} starts otherwise"
        )
        assert [element.id for element in first.targets[0].elts] in fields, f"{function.name} unpacks another order"


def shape_comments(path):
    """Return {line: (variable, shape as text)} for lines such as `u = z @ A  # (N, r)`, and for a cache's fields."""
    found = {}
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT and (shape := re.match(r"#\s*\(([^)\d][^)]*|)\)", token.string)):
                code = token.line[: token.start[1]]
                if name := re.match(r"\s*(\w+)\s*(=|:|\+=|-=|\*=|/=)", code):
                    found[token.start[0]] = name[1], shape[1]
    return found


class Trace:
    """Runs a function and holds the shape comments of its file against the real arrays."""

    def __init__(self, path, sizes):
        self.path, self.comments, self.sizes, self.seen, self.wrong = str(path), shape_comments(path), sizes, set(), []

    def __call__(self, frame, event, _):
        if frame.f_code.co_filename != self.path:
            return None
        pending = [None]

        def local(frame, event, _):
            if pending[0] in self.comments:
                name, shape = self.comments[pending[0]]
                self.compare(pending[0], frame.f_locals.get(name), name, shape)
            pending[0] = frame.f_lineno if event == "line" else None
            return local

        return local

    def compare(self, line, value, name, shape):
        if value is None:
            return
        self.seen.add(line)
        names = [part.strip() for part in shape.split(",") if part.strip()]
        actual = np.shape(value)
        if len(names) != len(actual) or any(self.sizes.setdefault(n, size) != size for n, size in zip(names, actual)):
            self.wrong.append(f"line {line}: {name} is {actual}, the comment says ({shape}), sizes so far {self.sizes}")


@pytest.mark.parametrize("path", OPS, ids=lambda path: path.stem)
def test_shape_comments_are_true(path):
    assert shape_comments(path), f"{path.name} has no shape comment"
    seen = set()
    fields = shape_comments(path)
    for case in cases(np.random.default_rng(0)):
        if (
            case.name.split(",")[0]
            .removesuffix("_tanh")
            .replace("pool_mean", "pooling")
            .replace("pool_first", "pooling")
            != path.stem
        ):
            continue
        trace = Trace(path, {})
        sys.settrace(trace)
        try:
            output, cache = case.forward(**case.inputs, **case.fixed)
            case.backward(np.ones(np.shape(output)) if np.ndim(output) else 1.0, cache)
        finally:
            sys.settrace(None)
        for line, (name, shape) in fields.items():
            if hasattr(cache, name) and line not in trace.seen:
                trace.compare(line, getattr(cache, name), name, shape)
        assert not trace.wrong, "\n".join(trace.wrong)
        seen |= trace.seen
    assert seen == set(shape_comments(path)), f"never executed: lines {sorted(set(shape_comments(path)) - seen)}"


@pytest.mark.parametrize(
    "path", sorted((ROOT.parent / "tests" / "benchmarks").glob("*.py")), ids=lambda path: path.stem
)
def test_a_benchmark_finds_what_it_imports(path, monkeypatch):
    """They are run by hand, long after a name that they use has moved."""
    monkeypatch.syspath_prepend(path.parent)  # where Python looks when a script is run
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except ModuleNotFoundError as error:
        if error.name.startswith("lora_np"):
            raise
        pytest.skip(f"{path.name} needs {error.name}")


def test_the_parts_of_gradcheck_that_know_our_operations_are_those_that_it_names():
    knows = re.compile(r"^\s*(from lora_np import .*\bops\b|from lora_np\.ops|import lora_np\.ops)", re.MULTILINE)
    parts = {path.stem for path in (ROOT / "gradcheck").glob("*.py") if knows.search(path.read_text())}
    words = ast.get_docstring(ast.parse((ROOT / "gradcheck" / "__init__.py").read_text()))
    named = re.search(r"Two parts do know those of\s`lora_np.ops`(.*?)\n\n", words, re.DOTALL)[1]
    assert parts == set(re.findall(r"`(\w+)`", named)) == {"mutants", "dictionary"}
