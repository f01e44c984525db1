"""Several adapters in one folder, as PEFT's save_pretrained writes them: each in a folder of its name, and the one
called "default" in the root."""

import os
from collections.abc import Sequence
from pathlib import Path

from lora_np.adapt.several import Adapters
from lora_np.formats.huggingface import head_files
from lora_np.formats.peft.config import SETTINGS
from lora_np.formats.peft.tensors import load_adapter, prepared, write_prepared
from lora_np.model.transformer import Transformer

DEFAULT = "default"


def save_adapters(adapters: Adapters, folder: str | os.PathLike, base: str | os.PathLike | None = None) -> None:
    """Write all adapters in PEFT's format, each into `folder / name`, "default" into `folder` itself.

    Folders of other adapters that lie there are left alone, as PEFT leaves them: what was deleted or renamed since is
    still there.

    Parameters
    ----------
    adapters : Adapters
    folder : path
    base : str or path, optional
        The name or folder of the base model, for `base_model_name_or_path`.

    Raises
    ------
    ValueError
        If there is none, two names differ in capitals alone (not every system keeps such folders apart), or one cannot
        be saved; see `save_adapter`. Nothing has been written then.
    """
    if not isinstance(adapters, Adapters) or not adapters:
        raise ValueError(f"save_adapters takes Adapters that hold at least one, but was given {adapters!r:.60}.")
    names: dict[str, str] = {}
    for name in adapters:
        if (other := names.setdefault(name.casefold(), name)) != name:
            raise ValueError(f"the adapters {other!r} and {name!r} would share a folder on some systems; rename one.")
    contents = {}
    for name, model in adapters.items():
        try:
            contents[name] = prepared(model, base)
            head_files(model, place(folder, name))
        except ValueError as error:
            raise ValueError(f"the adapter {name!r}: {error}") from error
    for name, content in contents.items():
        write_prepared(adapters[name], place(folder, name), *content)


def load_adapters(model: Transformer, folder: str | os.PathLike, names: Sequence[str] | None = None) -> Adapters:
    """Return the adapters that lie in a folder, on one base; "default", if there, is the active one, or the first.

    Parameters
    ----------
    model : Transformer
        The base, without an adapter.
    folder : path
        As `save_adapters` or PEFT's save_pretrained wrote it.
    names : list of str, optional
        Which of them; without it all: "default" in the root, and each folder with an adapter_config.json, by name.

    Raises
    ------
    ValueError
        If there is none, or one that was asked for is not there or cannot be loaded; see `load_adapter`.
    """
    if names is None:
        names = [path.parent.name for path in sorted(Path(folder).glob(f"*/{SETTINGS}"))]
        if (Path(folder) / SETTINGS).is_file():
            if DEFAULT in names:
                raise ValueError(
                    f"{folder} holds an adapter in its root, which is called {DEFAULT!r}, and one in a folder of that"
                    " name; give the names of those that you mean (the root's is taken), or move one away."
                )
            names = [DEFAULT, *names]
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"load_adapters needs a list of names, or a folder that holds adapters by name, each with an {SETTINGS}; it"
            f" was given {names!r:.60} and {folder}."
        )
    in_root = (Path(folder) / SETTINGS).is_file()
    folders = {name: Path(folder) if name == DEFAULT and in_root else Path(folder) / name for name in names}
    return Adapters(model, **{name: load_adapter(model, found) for name, found in folders.items()})


def place(folder, name):
    return Path(folder) if name == DEFAULT else Path(folder) / name
