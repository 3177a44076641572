"""Install pip into a virtualenv without one, like get-pip.py, but with the pip that is bundled with Python.

ansible-test creates such virtualenvs and downloads get-pip.py from its own server. This program only needs a package
index. `sanity.sh` puts it where ansible-test looks first.
"""

from __future__ import annotations

import ensurepip
import os
import runpy
import sys
import sysconfig
from pathlib import Path

# Options of get-pip.py that pip itself does not know.
OWN = {"--no-setuptools", "--no-wheel"}


def bundled() -> Path:
    """Return the wheel of pip that Python puts into new virtualenvs; Debian's Python has it in another package."""
    place = (
        sysconfig.get_config_var("WHEEL_PKG_DIR") or Path(ensurepip.__file__).parent / "_bundled"
    )
    return next(Path(place).glob("pip-*.whl"))


if __name__ == "__main__":
    sys.path.insert(0, str(bundled()))
    sys.argv = ["pip", "install", *(word for word in sys.argv[1:] if word not in OWN)]
    # pip calls ansible-test's entry point again. With this variable set, that would run get-pip.py instead of pip.
    os.environ.pop("GET_PIP", None)
    runpy.run_module("pip", run_name="__main__", alter_sys=True)
