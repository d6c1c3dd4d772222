"""``python -m support.call HEX``: call a function in a fresh interpreter. Started by `support.processes`."""

from __future__ import annotations

import pickle
import sys


def main() -> None:
    """Call what the argument holds: the import path, and a pickled function with its arguments."""
    sys.path[:], pickled = pickle.loads(bytes.fromhex(sys.argv[1]))
    function, args = pickle.loads(pickled)
    function(*args)


if __name__ == "__main__":
    main()
