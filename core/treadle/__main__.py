"""`treadle`, and `python -m treadle`: the process, which handles its signals before it loads anything."""

from __future__ import annotations

import sys
from typing import NoReturn

from treadle.interruption import Interruption


def main() -> NoReturn:
    """Run the command line with this process's arguments and exit."""
    interruption = Interruption(sys.argv[1:])
    interruption.install()
    interruption.run(lambda: _call(interruption))


def _call(interruption: Interruption) -> int:
    from treadle.cli import run

    return run(sys.argv[1:], interruption)


if __name__ == "__main__":
    main()
