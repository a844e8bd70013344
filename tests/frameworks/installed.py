"""Where do the frameworks, and the SDKs of providers, come from? PyPI, pinned with their hashes in requirements.txt, into an environment of their own beside it.

requirements.txt is made from requirements.in by
`uv pip compile requirements.in --universal --python-version 3.11 --fork-strategy fewest --generate-hashes --no-header --no-annotate -c …`, the constraints being
those of requirements-dev.txt without tenacity, of which Voyage's SDK wants an older one (and the option that leaves addresses of indexes out).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.pinned import NotInstalled, install_once

HERE = Path(__file__).parent
PYTHON = HERE / ".venv" / "bin" / "python"
_ENVIRONMENT = dict(os.environ)
"""As the person set it, for pip; the fixtures scrub the one that the tests see."""


def install() -> None:
    """Install what the requirements pin, once.

    Raises:
        NotInstalled: no package index.
    """
    install_once(HERE, "requirements.txt", ".venv/.installed", _install)


def _install() -> None:
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--require-hashes"]
    for command in ([sys.executable, "-m", "venv", "--clear", str(PYTHON.parents[1])], [*pip, "-r", str(HERE / "requirements.txt")]):
        done = subprocess.run(command, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False)
        if done.returncode != 0:
            raise NotInstalled(f"pip could not install the frameworks: {done.stderr.strip()[-500:] or 'no output'}")


if __name__ == "__main__":
    install()
