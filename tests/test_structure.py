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

import lora_np as lnp
from lora_np.model.tree import rebuild
from lora_np.ops.cases import cases

ROOT = Path(__file__).resolve().parents[1] / "lora_np"
# From the ground up: a module imports from its own package, and from those left of a `<`.
LAYERS = """ops, gradcheck, files, compress < fetch, model < adapt < formats < datasets < train < experiments
< figures < course < cli < __main__"""
LEVEL = {name: level for level, names in enumerate(LAYERS.split("<")) for name in re.findall(r"\w+", names)}
MODULES = sorted(ROOT.rglob("*.py"))
SUBJECT = ROOT / "adapt" / "lora.py"
FIT = ROOT / "ops" / "fit.py"  # what all operations ask of their arguments; no operation itself
IDIOMS = [FIT.with_name("erf.py"), FIT.with_name("rows.py")]  # what several operations call, or speed asks for
OPS = sorted(set(FIT.parent.glob("*.py")) - {FIT, *IDIOMS, FIT.with_name("__init__.py"), FIT.with_name("cases.py")})
# Methods of adaptation whose mathematics stand in their own file.
WITH_MATHEMATICS = [
    path
    for path in (ROOT / "adapt").glob("*.py")
    if re.search(r"^def \w+_backward\(", path.read_text(), re.M) and path != SUBJECT
]

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
            yield f"{'.' * node.level}{node.module or ''}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_layers_below_its_own(path):
    layer = layer_of(path)
    if layer == "__init__":
        return
    assert layer in LEVEL, f"{path.name} has no layer"
    for name in imports(ast.parse(path.read_text())):
        assert layer == "gradcheck" or not name.startswith("."), f"{path.name} imports {name}: write its full name"
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
    for path in (ROOT / layer).rglob("*.py"):
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


def test_editors_are_told_the_same_names_from_the_same_places():
    import lora_np

    told = {}
    for node in ast.parse((ROOT / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname == alias.name  # else it is not handed on
                told[alias.name] = node.module if node.module != "lora_np" else f"lora_np.{alias.name}"
    assert told == lora_np._HOME


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
    read = (*OPS, *IDIOMS, FIT, SUBJECT)
    files = {path: code_lines(ast.parse(text := path.read_text()), text) for path in read}
    total = sum(files.values())
    with capsys.disabled():
        print(f"\ncode lines of ops and lora.py: {total} of {MAX_MATHEMATICS}")
    assert total <= MAX_MATHEMATICS
    for path in (*OPS, *IDIOMS, FIT):
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


@pytest.mark.parametrize("path", [*OPS, *WITH_MATHEMATICS], ids=lambda path: path.stem)
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


SIZE = r"(?:\d+ )?\w+"  # d, 1, or 3 d
SHAPE = rf"\((?:(?!\d+\)){SIZE}(?:, {SIZE})*,?)?\)"  # a number alone is that of a step


def shape_comments(path):
    """Return {line: ((variable, its possible shapes as texts), ...)} for what stands behind an assignment or a field.

    `u = z @ A  # (N, r)`, `a, b = f(x)  # (N, d), (N, 1)`, and `content: np.ndarray  # (N,) ids, or (N, P) patches`.
    """
    found = {}
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT and (shapes := re.match(rf"#\s*({SHAPE}(?:, {SHAPE})*)", token.string)):
                code = token.line[: token.start[1]]
                if names := re.match(r"\s*(\w+(?:, \w+)*)\s*(=|:|\+=|-=|\*=|/=)", code):
                    names, shapes = names[1].split(", "), re.findall(SHAPE, shapes[1])
                    assert len(shapes) <= len(names), f"{path}, line {token.start[0]}: more shapes than names"
                    others = re.findall(rf"\bor ({SHAPE})", token.string)
                    found[token.start[0]] = tuple((name, (shape, *others)) for name, shape in zip(names, shapes))
    return found


def fits(value, shape, sizes):
    """Return whether an array, or the matrix of a node, has a shape; letters that are new get their sizes."""
    parts = [part.rpartition(" ") for part in shape.strip("()").replace(",", ", ").split(", ") if part.strip()]
    actual, known = np.shape(getattr(value, "W", value)), dict(sizes)
    for size, (times, _, letter) in zip(actual, parts):
        letter = letter.strip()
        if size != (
            int(letter) if letter.isdigit() else int(times or 1) * known.setdefault(letter, size // int(times or 1))
        ):
            return False
    sizes.update(known if len(parts) == len(actual) else {})
    return len(parts) == len(actual)


class Trace:
    """Runs a function and holds the shape comments of some files against the real arrays.

    With `sizes` a letter means the same in all calls, without it in each call by itself.
    """

    def __init__(self, paths, sizes=None):
        self.comments = {str(path): shape_comments(path) for path in paths}
        self.sizes, self.seen, self.wrong = sizes, set(), []

    def __call__(self, frame, event, _):
        path = frame.f_code.co_filename
        if not self.comments.get(path):
            return None
        pending, sizes = [None], {} if self.sizes is None else self.sizes

        def local(frame, event, _):
            for name, shapes in self.comments[path].get(pending[0], ()):
                self.compare(path, pending[0], frame.f_locals.get(name), name, shapes, sizes)
            pending[0] = frame.f_lineno if event == "line" else None
            return local

        return local

    def compare(self, path, line, value, name, shapes, sizes):
        if value is None:
            return
        self.seen.add((path, line))
        if not any(fits(value, shape, sizes) for shape in shapes):
            actual = np.shape(getattr(value, "W", value))
            self.wrong.append(f"{path}, line {line}: {name} is {actual}, not {' or '.join(shapes)}, sizes: {sizes}")


@pytest.mark.parametrize("path", OPS, ids=lambda path: path.stem)
def test_shape_comments_are_true(path):
    assert shape_comments(path), f"{path.name} has no shape comment"
    seen = set()
    fields = shape_comments(path)
    for case in cases(np.random.default_rng(0)):
        if re.sub(r"pool_\w+", "pooling", case.name.split(",")[0]).removesuffix("_tanh") != path.stem:
            continue
        trace, before = Trace([path], {}), sys.gettrace()
        sys.settrace(trace)
        try:
            output, cache = case.forward(**case.inputs, **case.fixed)
            case.backward(np.ones(np.shape(output)) if np.ndim(output) else 1.0, cache)
        finally:
            sys.settrace(before)  # of whoever measures coverage
        for line, comments in fields.items():
            for name, shapes in comments:
                if hasattr(cache, name) and (str(path), line) not in trace.seen:
                    trace.compare(str(path), line, getattr(cache, name), name, shapes, trace.sizes)
        assert not trace.wrong, "\n".join(trace.wrong)
        seen |= trace.seen
    lines = {line for _, line in seen}
    assert lines == set(fields), f"never executed: lines {sorted(set(fields) - lines)}"


def everything():
    """Run small models forward and backward with each method of adaptation, and what else has shape comments."""
    import tiny
    from adapt.test_methods import METHODS, as_differentiated, frozen, is_for, trained, with_ours

    from lora_np.adapt.methods import penalty
    from lora_np.compress import FORMATS, low_rank_approximation
    from lora_np.gradcheck import check

    low_rank_approximation(M := np.random.default_rng(0).standard_normal((70, 101)), 2)
    for form, kind in FORMATS.items():
        kind.of(M, **({"r": 3} if form == "low_rank" else {})).rows(np.array([5, 1]))
    lnp.load_data("digits")
    models = [(name, tiny.adapted(name, dropout=0.1)) for name in ("bert mean head", "gpt hidden", "vit")]
    for method in METHODS.values():
        for own in with_ours(method):
            names = [name for name in ("bert", "gpt hidden", "vit") if is_for(method, name)]
            adapted = {name: trained(method, frozen(name), **own) for name in names}
            models += [*adapted.items(), ("bert", rebuild(adapted["bert"], as_differentiated))]
    models.append(("mpnet", lnp.unfreeze(tiny.build("mpnet", dropout=0.1), "relative")))
    models.append(("bert", tiny.adapted("bert", bias="all")))
    for name, model in models:
        for rng in (np.random.default_rng(0), None):
            y, cache = model.forward(tiny.batch(name), rng)
            model.backward(np.ones_like(y), cache)
        penalty(model)
    for case in cases(np.random.default_rng(0)):
        if case.name in ("layer_norm", "attention, dropout"):
            check(case.forward, case.backward, case.inputs, case.fixed)
    x = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)  # no complex step: by differences
    check(lambda x: (np.abs(x) * x, x), lambda dy, x: 2.0 * np.abs(x) * dy, {"x": x})


def test_shape_comments_outside_ops_are_true(monkeypatch):
    paths = [*IDIOMS, *(path for path in MODULES if path.parent != FIT.parent)]
    trace = Trace(paths)
    for path in paths:
        if not trace.comments[str(path)]:
            continue
        module = importlib.import_module(".".join(path.relative_to(ROOT.parent).with_suffix("").parts))
        for node in ast.parse(path.read_text()).body:
            fields = (
                {f.lineno for f in ast.walk(node) if isinstance(f, ast.AnnAssign)}
                if isinstance(node, ast.ClassDef)
                else ()
            )
            if lines := sorted(set(fields) & set(trace.comments[str(path)])):
                watch(monkeypatch, trace, str(path), getattr(module, node.name), lines)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        everything()
    finally:
        sys.settrace(before)
    assert not trace.wrong, "\n".join(trace.wrong)
    missed = [
        f"{path}:{line}"
        for path, comments in trace.comments.items()
        for line in comments
        if (path, line) not in trace.seen
    ]
    assert not missed, f"never executed: {missed}"


def watch(monkeypatch, trace, path, cls, lines):
    """Hold the comments of a class's fields against every object that is made of it."""
    maker = "__new__" if issubclass(cls, tuple) else "__init__"
    make = getattr(cls, maker)

    def made(*args, **given):
        result = make(*args, **given)
        value, sizes = (result if maker == "__new__" else args[0]), {}
        for line in lines:
            for name, shapes in trace.comments[path][line]:
                trace.compare(path, line, getattr(value, name), name, shapes, sizes)
        return result

    monkeypatch.setattr(cls, maker, made)


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


ROOMS = {"verdict": ("verdict",), "causes": ("verdict", "causes"), "": ("verdict", "causes", "check", "parameters")}
GRADCHECK = sorted((ROOT / "gradcheck").rglob("*.py"))


@pytest.mark.parametrize("path", GRADCHECK, ids=lambda path: str(path.relative_to(ROOT / "gradcheck")))
def test_gradcheck_imports_itself_relatively_and_its_rooms_one_way(path):
    """It stands on the ground, and is published alone, too. Why a gradient is wrong needs to know that it is."""
    here = path.parent.relative_to(ROOT / "gradcheck").parts
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert not any(name.split(".")[0] == ROOT.name for name in names), f"{path.name} imports {names}"
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level <= len(here) + 1, f"{path.name} imports from outside of gradcheck"
            whole = [*here[: len(here) + 1 - node.level], *(node.module or "").split(".")]
            assert whole[0] in ROOMS[here[0] if here else ""], f"{path.name} must not import {'.'.join(whole)}"


def test_nobody_imports_from_inside_gradcheck():
    """What others need has a public name there."""
    top = ROOT.parent
    users = [*MODULES, *top.glob("chapters/src/*.py"), *top.glob("tests/benchmarks/*.py")]
    for path in users:
        if path not in GRADCHECK:
            inside = [name for name in imports(ast.parse(path.read_text())) if name.startswith("lora_np.gradcheck.")]
            assert not inside, f"{path.name} imports {inside}"
