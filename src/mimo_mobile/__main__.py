"""``python -m mimo_mobile`` is the command ``mimo``."""

from __future__ import annotations

from mimo_mobile.cli import main

if __name__ == "__main__":
    main(prog_name="mimo")
