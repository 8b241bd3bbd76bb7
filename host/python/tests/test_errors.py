"""What goes wrong is an exception that says what to do, and what crashes is one too."""

import contextlib
import os
import pickle
import signal
import threading
import time
import warnings

import pytest
from conftest import QUESTION, worker_ids

import pajamas


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda made: pajamas.load("no-such-model"), pajamas.ModelNotFoundError, "no model `no-such-model`"),
        (lambda made: pajamas.quantize(made.path.parent / "gone"), pajamas.ModelNotFoundError, "gone"),
        (lambda made: pajamas.load(made, "no-such-backend"), pajamas.UsageError, "unknown backend"),
        (lambda made: pajamas.load(made, options={"threds": 1}), pajamas.UsageError, "threds"),
        (lambda made: pajamas.load(made, context_length=2**32), OverflowError, ""),
        (lambda made: pajamas.quantize(made, "Q4_K_N"), pajamas.UsageError, "Q4_K_N"),
        (lambda made: pajamas.Installation(plugin_dirs=["/no/such/folder"]), pajamas.PajamasError, "is no folder"),
        (lambda made: pajamas.benchmark(made, prompt_tokens=0, generate_tokens=0), pajamas.UsageError, "nothing"),
    ],
)
def test_each_mistake_has_its_exception(made, call, kind, words):
    with pytest.raises(kind) as caught:
        call(made)
    assert words in str(caught.value)
    if isinstance(caught.value, pajamas.PajamasError):
        assert caught.value.hint and caught.value.hint in str(caught.value) and caught.value.kind
        again = pickle.loads(pickle.dumps(caught.value))
        assert type(again) is type(caught.value) and str(again) == str(caught.value)


def test_they_are_pythons_own_kinds_too():
    assert issubclass(pajamas.ModelNotFoundError, FileNotFoundError)
    assert issubclass(pajamas.OutOfMemoryError, MemoryError)
    assert issubclass(pajamas.UsageError, ValueError)
    assert issubclass(pajamas.StorageError, OSError)


@pytest.mark.parametrize(
    ("hint", "here"),
    [
        ("choose another name with `--name`", "choose another name with `name`"),
        ("leave `--context-length` out, or make it shorter", "leave `context_length` out, or make it shorter"),
        ("name what it was made from: `--reference MODEL`", "name what it was made from: `reference`"),
        ("`pajamas models remove --force m.gguf` removes it", "`pajamas models remove --force m.gguf` removes it"),
        ("run again with `-v` to see it", "run again with RUST_LOG=debug in the environment to see it"),
        ("--context-length 6144", "context_length=6144"),
        ("--calibration TEXT makes one", "options={'calibration': …} makes one"),
        ("--requantize does it all the same", "options={'requantize': …} does it all the same"),
        ("--dry-run shows all of them", "forecast shows all of them"),
        ("an engine's own --no-mmap 3", "an engine's own --no-mmap 3"),
        ("leave `-m` out", "leave `method` out"),
        ("`-o` names the folder; `--name` names the file", "`output_dir` names the folder; `name` names the file"),
        ("`--force` replaces it", "`force=True` replaces it"),
        ("`--format gguf` makes", "`format gguf` makes"),
        ("with a smaller number, or --set cache_type_k=q8_0", "with a smaller number, or options={'cache_type_k': 'q8_0'}"),
        ("`make plugin-mlx install` in the source folder", "`make plugin-mlx install` in the source folder"),
        ("fewer layers (`--set n_gpu_layers=N`)", "fewer layers (`options={\'n_gpu_layers\': N}`)"),
    ],
)
def test_hints_are_for_python(hint, here):
    assert pajamas._errors.of("usage", "what happened", hint).hint == here


@pytest.mark.parametrize("message", ["there is no model `/data/qwen-b`", "`mistral-7-b` is there: `/src/gpt-4-o`", "`` is --fit"])
def test_names_in_messages_stay_what_they_are(message):
    assert pajamas._errors.of("usage", message, None).message == message


def test_a_model_whose_measuring_fails_is_there_all_the_same(source, tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("Long enough in bytes, and too short in tokens.")
    with pytest.raises(pajamas.PajamasError, match="too short") as caught:
        pajamas.quantize(source, "Q4_0", output_dir=tmp_path, validate=True, text=text)
    assert caught.value.made is not None and caught.value.made.path.is_file()


def test_logs_come_when_they_are_asked_for(made, child):
    script = f"import pajamas; pajamas.load({str(made.path)!r}).close()"
    assert child(script).stderr == ""
    assert "[debug] llama.cpp" in child(script, env={**os.environ, "RUST_LOG": "debug"}).stderr


def test_warnings_point_at_the_caller(made):
    with pytest.warns(RuntimeWarning) as caught:
        pajamas.load(made, "mlx-quantize").close()
    assert caught[0].filename == __file__


def test_a_damaged_file_is_named(copy_of):
    copy_of.write_bytes(copy_of.read_bytes()[:5000])
    with pytest.raises(pajamas.PajamasError, match="copy.gguf"):
        pajamas.load(copy_of)
    copy_of.write_bytes(b"no model")
    with pytest.raises(pajamas.PajamasError, match="copy.gguf"):
        pajamas.load(copy_of)


def test_what_is_asked_wrongly_is_said_before_anything_runs(model):
    with pytest.raises(TypeError, match="max_token'.*known are max_tokens"):
        model.chat(QUESTION, max_token=3)
    with pytest.raises(TypeError, match="expected messages"):
        model.chat([{"text": "Hi"}])
    with pytest.raises(pajamas.UsageError, match="unknown role 'usr'"):
        model.chat([{"role": "usr", "content": "Hi"}])
    with pytest.raises(pajamas.UsageError):
        model.generate("a", temperature=-1.0)
    with pytest.raises(pajamas.ContextOverflowError, match="context"):
        model.generate("word " * 5000)
    with pytest.raises(pajamas.PajamasError):
        model.detokenize([2**31])
    for wrong in (dict(temperature="hot"), dict(max_tokens="1"), dict(seed=1.5), dict(stop=["a", 5])):
        with pytest.raises(TypeError, match=f"`{next(iter(wrong))}` must be"):
            model.chat(QUESTION, **wrong)
    for wrong in (dict(max_tokens=-1), dict(max_tokens=2**32), dict(seed=2**64)):
        with pytest.raises(pajamas.UsageError, match=f"`{next(iter(wrong))}` must be from 0 to"):
            model.chat(QUESTION, **wrong)
    with pytest.raises(pajamas.UsageError, match="no messages"):
        model.chat([])
    with pytest.raises(pajamas.UsageError, match="there are none"):
        model.logits([])
    for wrong in ("hello", [-1]):
        with pytest.raises(TypeError, match="expected token ids"):
            model.logits(wrong)
    with pytest.raises(pajamas.ContextOverflowError):
        model.logits([1] * 1_000_000)
    with pytest.raises(TypeError, match="expected messages"):
        model.chat([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}])
    parts = [{"type": "text", "text": QUESTION}]
    assert "Paris" in model.chat([{"role": "user", "content": parts}], temperature=0).text
    # It still answers.
    assert "Paris" in model.chat(QUESTION, temperature=0).text


def test_a_crash_of_the_engine_is_an_exception(made):
    others = pajamas.load(made)
    before = worker_ids()
    model = pajamas.load(made)
    (own,) = set(worker_ids()) - set(before)
    stream = model.stream("Once upon a time", max_tokens=100_000, ignore_eos=True)
    assert next(stream)
    os.kill(own, signal.SIGABRT)
    with pytest.raises(pajamas.WorkerError, match="abort"):
        for _ in stream:
            pass
    with pytest.raises(pajamas.WorkerError):
        model.chat(QUESTION)
    assert "Paris" in others.chat(QUESTION, temperature=0).text
    model.close()
    others.close()


@pytest.mark.parametrize("measure", ["validate", "quantize"])
def test_a_crash_of_an_engine_that_is_measured_is_an_exception(made, source, tmp_path, measure):
    """Whatever crashes: none of it is in this process."""
    before = set(worker_ids())

    def kill():
        # Whichever of the models is there, once it has begun.
        while not (workers := set(worker_ids()) - before):
            time.sleep(0.01)
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGABRT)

    def progress(notice):
        if notice.stage == "validating" and not killer.is_alive() and not killed:
            killed.append(True)
            killer.start()

    killed, killer = [], threading.Thread(target=kill)
    with pytest.raises(pajamas.WorkerError, match="abort") as caught:
        if measure == "validate":
            pajamas.validate(made, tokens=100_000, progress=progress)
        else:
            pajamas.quantize(source, "Q5_1", output_dir=tmp_path, validate=True, tokens=100_000, progress=progress)
    killer.join()
    assert measure == "validate" or caught.value.made.path.is_file(), "what was made before is there"


def test_what_nothing_could_exceed_is_no_limit(made, source):
    for wrong in (dict(max_kld=float("nan")), dict(max_degradation=-1.0), dict(window=1)):
        with pytest.raises(pajamas.UsageError):
            pajamas.validate(made, tokens=512, **wrong)
    for wrong in (dict(max_kld=0.1), dict(fit="2MiB"), dict(max_degradation=0.1)):
        with pytest.raises(pajamas.UsageError, match="limit was set"):
            pajamas.quantize(source, validate=False, **wrong)
    for wrong in (-1, float("inf"), float("nan"), "six", 0):
        with pytest.raises(pajamas.UsageError, match="expected a size"):
            pajamas.quantize(source, fit=wrong)


def test_another_backend_than_the_one_named_is_a_warning(made, source):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pajamas.load(made, "mlx-quantize") as model:
            assert model.backend == "gguf-cpu"
    assert any("mlx-quantize" in str(warning.message) for warning in caught)
    with pytest.raises(pajamas.PajamasError, match="`mlx-quantize` cannot run"):
        pajamas.load(made, "mlx-quantize", strict=True)
