"""Stands in for a host's Python when a release is built: called as `quick_python.py -m venv DIRECTORY`, and as
`quick_python.py -I -m compileall …`, which the real one does.

The virtualenv is a real one but for pip, which takes seconds to install: it gets one that knows of two kinds of
requirements.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

PIP = """
import sys
*words, requirements = sys.argv[1:]
assert words == ["--disable-pip-version-check", "install", "--no-input", "--quiet", "--requirement"]
if "nothing-of-the-kind" in open(requirements).read():
    sys.exit("ERROR: No matching distribution found for nothing-of-the-kind")
"""

if __name__ == "__main__":
    if sys.argv[1:4] == ["-I", "-m", "compileall"]:
        sys.exit(subprocess.run([sys.executable, *sys.argv[1:]], check=False).returncode)
    assert sys.argv[1:3] == ["-m", "venv"]
    venv.create(sys.argv[3], with_pip=False, symlinks=True)
    pip = next(Path(sys.argv[3]).glob("lib/python3.*/site-packages")) / "pip"
    pip.mkdir()
    (pip / "__main__.py").write_text(PIP)
