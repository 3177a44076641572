"""Install pip into a virtualenv without one, as get-pip.py does, but with the pip that Python itself brings.

ansible-test makes such virtualenvs and fetches get-pip.py from a server of its own. This needs an index of packages
only. `sanity.sh` puts it where ansible-test looks first.
"""

from __future__ import annotations

import ensurepip
import os
import runpy
import sys
from pathlib import Path

# Options of get-pip.py that pip itself does not know.
OWN = {"--no-setuptools", "--no-wheel"}

if __name__ == "__main__":
    [wheel] = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    sys.path.insert(0, str(wheel))
    sys.argv = ["pip", "install", *(word for word in sys.argv[1:] if word not in OWN)]
    # By this ansible-test tells its own entry point, which pip calls again, to run get-pip.py instead of pip.
    os.environ.pop("GET_PIP", None)
    runpy.run_module("pip", run_name="__main__", alter_sys=True)
