"""What the tests share: a home of their own, with a small model made in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FIXTURES = Path(__file__).resolve().parents[3] / "tests" / "fixtures"
QUESTION = "What is the capital of France?"


def worker_ids():
    """The processes that models of this one run in."""
    listing = subprocess.run(["ps", "-axo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
    rows = (line.split(None, 2) for line in listing.splitlines())
    return [int(pid) for pid, parent, name in rows if int(parent) == os.getpid() and "pajamas-worker" in name]


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """Nothing of the user's is read or written, and nobody is asked."""
    folder = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith("PAJAMAS_") and name != "PAJAMAS_CUSTOM_BACKEND"]:
        del os.environ[name]
    os.environ.update(PAJAMAS_HOME=str(folder), HF_HUB_OFFLINE="1", HF_HOME=str(folder / "huggingface"))
    return folder


@pytest.fixture(scope="session")
def source():
    return FIXTURES / "pajama-tiny"


@pytest.fixture(scope="session")
def made(source):
    import pajamas

    return pajamas.quantize(source, "Q8_0", tokens=512)


@pytest.fixture
def model(made):
    import pajamas

    with pajamas.load(made, threads=1) as model:
        yield model


@pytest.fixture
def copy_of(made, tmp_path):
    """A file of one's own to damage."""
    return Path(shutil.copy(made.path, tmp_path / "copy.gguf"))


@pytest.fixture
def child():
    """Runs a script in another interpreter."""
    def run(script, **options):
        return subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False, **options
        )

    return run
