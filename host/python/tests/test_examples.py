"""The examples, as their users run them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments):
    command = [sys.executable, EXAMPLES / f"{name}.py", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended
    return ended.stdout


def test_each_has_a_test():
    tested = {"quick_start", "batch_quantize", "benchmark", "custom_backend", "serve_many"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_quick_start_answers(source):
    assert run("quick_start", source) == "The capital of France is Paris.\n"


def test_batch_quantize_goes_on_after_one_that_fails(source):
    lines = run("batch_quantize", source, "Q8_0", "Q9_9", "Q4_K_M").splitlines()
    assert len(lines) == 4 and lines[1].startswith("Q8_0") and "unknown quantization method" in lines[2]
    assert lines[3].startswith("Q4_K_M") and lines[3].endswith("%")


def test_benchmark_measures(made):
    assert "on gguf-cpu: pp128 " in run("benchmark", made.path)


def test_serve_many_answers_each(made):
    out = run("serve_many", made.path, "What is the capital of France?", "What is the capital of Italy?")
    assert "Paris" in out.splitlines()[0] and "Rome" in out.splitlines()[1]


def test_custom_backend_tells_a_story(source, tmp_path):
    built = Path(os.environ.get("PAJAMAS_CUSTOM_BACKEND", "/nowhere"))
    libraries = [built / name for name in ("libngram.so", "libngram.dylib") if (built / name).is_file()]
    if not libraries:
        pytest.skip("the plugin template was not built")
    shutil.copy(libraries[0], tmp_path)
    text = shutil.copy(source / "validation.txt", tmp_path / "corpus.txt")
    first, *story = run("custom_backend", tmp_path, "ngram", text).splitlines()
    assert first.startswith("ngram 0.1.0: ") and len(" ".join(story).split()) > 2


def test_the_command_is_the_program():
    command = Path(sys.executable).with_name("pajamas")
    ended = subprocess.run([command, "plugins", "list", "--json"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and '"gguf-cpu"' in ended.stdout, ended
