"""Run the code cells of notebooks, without a kernel and without a network: python run_cells.py NOTEBOOK ...

Prints {notebook: [[id of the cell, name of the error or "", its message], ...]}. A cell that fails stops nothing, as in
nbgrader. What would fetch, train or start a program fails, and with the words "needs ...".
"""

import contextlib
import io
import json
import socket
import subprocess
import sys
from pathlib import Path

from lora_np.train.loop import Training


def refuse(what):
    def instead(*args, **kwargs):
        raise PermissionError(f"needs {what}")

    return instead


def outcomes(path):
    names, found = {"__name__": "__main__"}, []
    for cell in json.loads(Path(path).read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            try:
                exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
                found.append((cell["id"], "", ""))
            except Exception as error:
                found.append((cell["id"], type(error).__name__, str(error)))
    return found


if __name__ == "__main__":
    socket.socket.connect = refuse("a network")
    subprocess.Popen = refuse("another program")
    Training.steps = refuse("training")
    with contextlib.redirect_stdout(io.StringIO()):
        results = {path: outcomes(path) for path in sys.argv[1:]}
    print(json.dumps(results))
