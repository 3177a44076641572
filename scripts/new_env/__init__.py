"""What `make new-env` is made of: its options, what is refused of them, the files that are made, their way to disk."""

import sys
from pathlib import Path

# What preflight knows of names is a collection's, beside no package that Python would find by itself.
_CONTROL = str(Path(__file__).resolve().parents[2] / "plugins" / "module_utils")
if _CONTROL not in sys.path:
    sys.path.insert(0, _CONTROL)
