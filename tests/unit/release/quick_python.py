"""Replaces a host's Python when a release is built.

It is called as `quick_python.py -m venv DIRECTORY`, as `quick_python.py -I -m compileall …`, which it does without
other processes, and as `quick_python.py -I -c …`, which asks for the wheel of its pip. It has no wheel, so its
virtualenvs get a fake pip that knows three kinds of requirements. The part below the line `# setup.py` is run, like the
code of a package that is installed from its source.
"""

from __future__ import annotations

import compileall
import sys
import venv
from pathlib import Path

PIP = """
import pathlib, sys
*words, directory, option, requirements = sys.argv[1:]
options = ["--no-input", "--no-cache-dir", "--progress-bar=off", "--log", "LOG", "--use-pep517", "--wheel-dir"]
words[words.index("--log") + 1] = "LOG"
assert [*words, option] == ["--disable-pip-version-check", "wheel", *options, "--requirement"]
text = open(requirements).read()
if "nothing-of-the-kind" in text:
    sys.exit("ERROR: No matching distribution found for nothing-of-the-kind")
packages = pathlib.Path(__file__).parents[1]
exec(text.partition("# setup.py\\n")[2])
"""

if __name__ == "__main__":
    if sys.argv[1:3] == ["-I", "-c"]:
        sys.exit(print("/nowhere"))
    if sys.argv[1:4] == ["-I", "-m", "compileall"]:
        quietly, in_parallel = sys.argv[4:5], sys.argv[5:7]
        assert (quietly, in_parallel) == (["-q"], ["-j", "0"])
        sys.argv = ["compileall", *quietly, *sys.argv[7:]]
        sys.exit(not compileall.main())  # type: ignore[attr-defined]  # typeshed leaves it out
    assert sys.argv[1:3] == ["-m", "venv"]
    venv.create(sys.argv[3], with_pip=False, symlinks=True)
    pip = next(Path(sys.argv[3]).glob("lib/python3.*/site-packages")) / "pip"
    pip.mkdir()
    (pip / "__main__.py").write_text(PIP)
