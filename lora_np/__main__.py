"""`python -m lora_np` and the console command `lora-np`."""

import sys

from lora_np.cli.commands import main
from lora_np.train.memory import keep_freed_memory


def run():
    keep_freed_memory()
    sys.exit(main())


if __name__ == "__main__":
    run()
