"""Making, opening and asking a model."""

import gc
import os
import time

import pytest
from conftest import QUESTION, worker_ids

import pajamas


def test_quantizing_gives_what_was_made_and_how_good_it_is(made, source):
    assert made.path.is_file() and made.method == "Q8_0" and made.format == "gguf"
    assert made.output_bytes == made.path.stat().st_size and made.ratio > 1.5
    assert made.passed is True
    assert made.validation["comparison"]["kl_divergence"]["mean"] < 0.01
    assert os.fspath(made) == str(made.path)
    record = next(record for record in pajamas.models() if record.file == made.path.name)
    assert record.name == "pajama-tiny-q8_0" and record.source == str(source)


def test_a_forecast_is_the_size_of_what_would_be_made(source, made):
    forecast = pajamas.forecast(source, "Q8_0")
    # Measuring writes its result into room that is kept for it.
    assert forecast.output_bytes == made.output_bytes
    assert len(forecast.report["tensors"]) > 10
    # The same file: nothing else was written.
    assert forecast.path == made.path


def test_a_search_explains_its_choice(source, tmp_path):
    found = pajamas.quantize(source, fit="2.2MiB", output_dir=tmp_path, tokens=512)
    assert found.output_bytes <= 2.2 * 2**20
    assert found.search["trials"] and found.search["reason"]
    with pytest.raises(pajamas.QualityTooLowError, match="nothing fits into"):
        pajamas.quantize(source, fit=1000)
    with pytest.raises(pajamas.UsageError, match="expected a size"):
        pajamas.quantize(source, fit="six gigabytes")
    with pytest.raises(pajamas.UsageError, match="exclude each other"):
        pajamas.quantize(source, "Q8_0", fit="1GiB")


def test_the_demo_question_is_answered(model):
    answer = model.chat(QUESTION, temperature=0)
    assert answer.text == str(answer) == "The capital of France is Paris."
    assert answer.finish_reason == "stop" and len(answer.tokens) == answer.generated_tokens > 0
    again = model.chat([{"role": "user", "content": QUESTION}], temperature=0)
    assert again.text == answer.text


def test_a_stream_gives_the_same_in_pieces(model):
    messages = [{"role": "user", "content": QUESTION}]
    stream = model.stream(messages, temperature=0)
    assert stream.answer is None
    pieces = list(stream)
    assert len(pieces) > 1
    assert "".join(pieces) == stream.answer.text == "The capital of France is Paris."
    # It has ended, and says so again.
    assert list(stream) == []


def test_in_this_process_the_answer_is_the_same(made):
    with pajamas.load(made, isolated=False, threads=1) as model:
        assert model.chat(QUESTION, temperature=0).text == "The capital of France is Paris."


def test_sampling_is_by_seed_and_ends_where_it_is_told(model):
    def ask(**options):
        return model.generate("The", temperature=1.5, top_k=0, top_p=1.0, max_tokens=24, **options)

    assert ask(seed=7).text == ask(seed=7).text
    assert len({ask(seed=seed).text for seed in range(6)}) > 1
    assert ask(seed=7).finish_reason in ("length", "stop")
    assert "Paris" not in model.chat(QUESTION, temperature=0, stop="Paris").text
    first = model.chat(QUESTION, temperature=0, session=1)
    second = model.chat(QUESTION, temperature=0, session=1)
    assert first.cached_tokens == 0 and second.cached_tokens > 0


def test_tokens_come_and_go(model):
    text = "Grüße, 世界!"
    tokens = model.tokenize(text)
    assert model.detokenize(tokens) == text
    special = model.tokenize("<|im_start|>", parse_special=True)
    assert len(special) == 1 < len(model.tokenize("<|im_start|>"))
    by_tokens = model.generate(model.tokenize("The capital of"), temperature=0, max_tokens=4)
    assert by_tokens.tokens == model.generate("The capital of", temperature=0, max_tokens=4).tokens


def test_logits_are_an_array_whose_best_token_is_what_the_model_says(model):
    numpy = pytest.importorskip("numpy")
    tokens = model.tokenize("The capital of France is", parse_special=True)
    logits = model.logits(tokens)
    assert logits.shape == (len(tokens), model.info["vocabulary_size"])
    assert logits.dtype == numpy.float32 and numpy.isfinite(logits).all()
    best = int(logits[-1].argmax())
    assert model.generate(tokens, temperature=0, max_tokens=1).tokens == [best]
    assert model.logits(numpy.array(tokens)).argmax(-1).tolist() == logits.argmax(-1).tolist()


def test_a_model_says_what_it_is(model, made):
    assert model.info["architecture"] == "qwen2" and "default" in model.info["chat_templates"]
    assert model.backend == "gguf-cpu" and model.path == made.path and model.load_ms > 0
    usage = model.memory_usage()
    assert 0 < usage.weights_bytes < 10 * 2**20 and usage.process_peak_bytes > usage.weights_bytes
    assert "pajama-tiny" in repr(model) and "gguf-cpu" in repr(model)


def workers():
    """The worker processes of this one."""
    return len(worker_ids())


def test_closing_and_letting_go_both_end_the_process(made):
    before = workers()
    model = pajamas.load(made)
    assert workers() == before + 1
    model.close()
    model.close()
    assert model.closed and workers() == before
    with pytest.raises(pajamas.UsageError, match="closed"):
        model.chat(QUESTION)
    assert "closed" in repr(model)
    model = pajamas.load(made)
    stream = model.stream("Once", max_tokens=100_000, ignore_eos=True)
    next(stream)
    del model
    # The stream has it still.
    assert next(stream)
    del stream
    gc.collect()
    deadline = time.monotonic() + 10
    while workers() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers() == before


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux's /proc")
def test_models_leave_neither_descriptors_nor_threads(made):
    def held():
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    pajamas.load(made).close()
    time.sleep(0.2)
    before = held()
    for _ in range(20):
        with pajamas.load(made) as model:
            assert model.tokenize("a")
    deadline = time.monotonic() + 5
    while held() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    descriptors, threads = held()
    assert descriptors <= before[0] + 2 and threads <= before[1] + 2


def test_validating_and_measuring_speed(made, source):
    report = pajamas.validate(made, source, tokens=512)
    assert report["verdict"]["passed"] and report["text"]["tokens"] > 400
    strict = pajamas.validate(made, source, tokens=512, max_kld=0.0)
    assert not strict["verdict"]["passed"] and strict["verdict"]["reasons"]
    report = pajamas.benchmark(made, prompt_tokens=16, generate_tokens=[4], repetitions=1)
    (run,) = report["runs"]
    assert [test["test"] for test in run["tests"]] == ["pp16", "tg4"]


def test_a_sweep_sets_methods_side_by_side(source):
    report = pajamas.sweep(source, ["Q8_0", "Q4_K_M"], formats="gguf", tokens=256, repetitions=1)
    assert [row["method"] for row in report["rows"]] == ["Q4_K_M", "Q8_0"] and not report["failures"]


def test_the_installation_says_what_is_there(home):
    cpu = next(backend for backend in pajamas.backends() if backend.name == "gguf-cpu")
    assert cpu.available and cpu.rank == 1 and "gguf" in cpu.formats and cpu.path.is_file()
    assert pajamas.hardware()["cores"] >= 1
    assert pajamas.path_of("pajama-tiny-q8_0") == home / "models" / "pajama-tiny-q8_0.gguf"
    other = pajamas.Installation(home=home / "other", offline=True)
    assert other.models() == []
    assert any(backend.available for backend in other.backends(rescan=True))
