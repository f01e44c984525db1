"""`python -m lora_np` and the console command `lora-np`."""

import sys

from lora_np.cli.commands import main


def run():
    sys.exit(main())


if __name__ == "__main__":
    run()
