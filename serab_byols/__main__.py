"""``python -m serab_byols``: the same as ``serab-byols``."""

from serab_byols.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
