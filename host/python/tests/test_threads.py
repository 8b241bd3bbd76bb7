"""Threads, signals, cancelling and progress."""

import os
import threading
import time

import pytest
from conftest import QUESTION

import pajamas


def test_two_streams_run_at_once_and_the_interpreter_goes_on(made):
    with pajamas.load(made, parallel=2, threads=1) as model:
        options = dict(temperature=0, max_tokens=100_000, ignore_eos=True)
        streams = [model.stream("Once upon", **options), model.stream("There was", **options)]
        # Each gives pieces while the other is unfinished.
        for _ in range(5):
            for stream in streams:
                assert next(stream)
        counted = 0
        waiting = threading.Thread(target=lambda: [next(streams[0]) for _ in range(50)])
        waiting.start()
        while waiting.is_alive():
            counted += 1
            time.sleep(0.0005)
        assert counted > 5
        for stream in streams:
            stream.stop()
        for stream in streams:
            list(stream)
            assert stream.answer.finish_reason == "cancelled"


def test_many_threads_each_get_their_own_answer(made):
    countries = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo"}
    with pajamas.load(made, parallel=4) as model:
        answers = {}

        def ask(country):
            answers[country] = [model.chat(f"What is the capital of {country}?", temperature=0).text for _ in range(3)]

        threads = [threading.Thread(target=ask, args=(country,)) for country in countries]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for country, capital in countries.items():
        assert all(capital in answer for answer in answers[country]), answers


def test_a_with_block_stops_its_stream_and_the_model_is_free(model):
    started = time.monotonic()
    with model.stream("Once", max_tokens=100_000, ignore_eos=True) as stream:
        next(stream)
    assert stream.answer.finish_reason == "cancelled"
    assert "Paris" in model.chat(QUESTION, temperature=0).text
    assert time.monotonic() - started < 30


def test_a_stream_that_nobody_reads_keeps_nobody_from_the_model(model):
    stream = model.stream("Once", max_tokens=600, ignore_eos=True)
    next(stream)
    # There is one slot, and the stream has it until its answer is complete.
    assert "Paris" in model.chat(QUESTION, temperature=0).text
    assert "".join(stream) and stream.answer.generated_tokens == 600


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("isolated", [True, False])
def test_a_process_that_is_forked_off_is_told_so_and_leaves_the_model_alone(child, made, isolated):
    script = f"""
import os, pajamas
model = pajamas.load({str(made.path)!r}, isolated={isolated})
stream = model.stream("Hi", max_tokens=2)
if os.fork() == 0:
    try:
        model.chat("Hi")
    except pajamas.PajamasError as error:
        print("told" if "load it again here" in str(error) else error, flush=True)
    try:
        next(stream)
    except pajamas.PajamasError as error:
        print("stream told" if "load it again here" in str(error) else error, flush=True)
    del stream, model
    os._exit(0)
os.wait()
print(model.chat("What is the capital of France?", temperature=0))
"""
    ended = child(script)
    assert ended.stdout.splitlines() == ["told", "stream told", "The capital of France is Paris."], ended


def test_another_thread_can_stop_a_stream(model):
    stream = model.stream("Once", max_tokens=100_000, ignore_eos=True)
    threading.Timer(0.2, stream.stop).start()
    assert len(list(stream)) > 0
    assert stream.answer.finish_reason == "cancelled"


@pytest.mark.parametrize(
    "work",
    [
        "while True: model.generate('Once', max_tokens=10**6, ignore_eos=True)",
        "while True: [piece for piece in model.stream('Once', max_tokens=10**6, ignore_eos=True)]",
        "pajamas.benchmark(name, repetitions=1000)",
        "pajamas.sweep(source, formats='gguf', repetitions=1000)",
    ],
)
@pytest.mark.parametrize("isolated", [True, False])
def test_control_c_ends_it_and_the_program_goes_on(child, made, source, home, work, isolated):
    if not isolated and "model" not in work:
        pytest.skip("it never runs in this process")
    script = f"""
import os, pajamas, signal, threading, time
# A job in the background was told to ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
name, source = {str(made.path)!r}, {str(source)!r}
model = pajamas.load(name, isolated={isolated})
threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
started = time.monotonic()
try:
    {work}
    print("it ended by itself")
except KeyboardInterrupt:
    print("interrupted", time.monotonic() - started < 15)
print(model.chat("What is the capital of France?", temperature=0).text)
"""
    ended = child(script)
    assert ended.stdout.splitlines() == ["interrupted True", "The capital of France is Paris."], ended


@pytest.mark.parametrize(
    "work",
    [
        "pajamas.quantize(source, 'Q4_0', output_dir=out, tokens=100_000, name=str(turn))",
        "pajamas.validate(name, tokens=100_000)",
        "pajamas.load(name).close()",
        "model.logits([1] * 2000)",
        "pajamas.backends(rescan=True)",
    ],
)
def test_control_c_ends_whatever_takes_long(child, made, source, tmp_path, work):
    script = f"""
import os, pajamas, signal, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
name, source, out = {str(made.path)!r}, {str(source)!r}, {str(tmp_path)!r}
model = pajamas.load(name)
threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
turn = 0
try:
    while True:
        turn += 1
        {work}
except KeyboardInterrupt:
    print(model.chat("What is the capital of France?", temperature=0).text)
"""
    ended = child(script)
    assert ended.stdout.splitlines() == ["The capital of France is Paris."], ended


def test_a_stream_that_was_interrupted_lets_go_of_the_model_though_it_is_kept(child, made):
    script = f"""
import os, pajamas, signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)
model = pajamas.load({str(made.path)!r})
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
stream = model.stream("Once", max_tokens=10**6, ignore_eos=True)
try:
    for piece in stream:
        pass
except KeyboardInterrupt:
    print(model.chat("What is the capital of France?", temperature=0).text)
"""
    assert child(script).stdout == "The capital of France is Paris.\n"


def test_progress_is_told_on_the_thread_that_called(source, tmp_path):
    notices = []

    def progress(notice):
        assert threading.current_thread() is threading.main_thread()
        notices.append(notice)

    made = pajamas.quantize(source, "Q4_0", output_dir=tmp_path, progress=progress, validate=False)
    stages = {notice.stage for notice in notices if notice.kind == "progress"}
    assert stages and all(0 <= notice.fraction <= 1 for notice in notices)
    assert [notice.text for notice in notices if notice.kind == "made"] == [str(made.path)]
    assert made.passed is None and made.not_validated


def test_what_was_measured_is_kept_where_a_sweep_is_stopped(source):
    methods = []

    def progress(notice):
        if notice.kind == "note":
            methods.append(notice.text)
            if len(methods) == 2:
                raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough") as caught:
        pajamas.sweep(source, ["Q4_0", "Q8_0"], tokens=512, prompt_tokens=8, generate_tokens=4, progress=progress)
    partial = caught.value.partial
    assert partial["interrupted"] and len(partial["rows"]) == 1


def test_what_progress_raises_stops_the_work_and_leaves_nothing(source, tmp_path):
    def progress(notice):
        # In the middle: something has been written by then.
        if notice.kind == "progress" and notice.fraction > 0:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        pajamas.quantize(source, "Q5_0", output_dir=tmp_path / "out", progress=progress)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_bar_is_shown_where_tqdm_is(source, tmp_path, capsys):
    pytest.importorskip("tqdm")
    pajamas.quantize(source, "Q4_1", output_dir=tmp_path, progress=True, validate=False)
    assert "%|" in capsys.readouterr().err


def test_ending_the_interpreter_in_the_middle_of_a_stream_is_quiet(child, made):
    for isolated in (True, False):
        script = f"""
import pajamas
model = pajamas.load({str(made.path)!r}, isolated={isolated})
stream = model.stream("Once", max_tokens=10**6, ignore_eos=True)
print(bool(next(stream)))
"""
        ended = child(script)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", ""), (isolated, ended)
