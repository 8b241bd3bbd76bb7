"""Features that are used together, and values of other kinds than the usual ones."""

import asyncio
import pathlib
import subprocess
import sys

import numpy
import pytest
from conftest import QUESTION

import pajamas


def test_a_name_is_kept_or_refused_also_for_what_a_search_finds(source, tmp_path):
    here = pajamas.Installation(home=tmp_path / "home")
    first = here.quantize(source, "Q8_0", name="mine", validate=False)
    for other in (dict(fit="2MiB"), dict(max_kld=0.1), dict(method="Q4_0")):
        with pytest.raises(pajamas.PajamasError, match="`mine` is there already") as caught:
            here.quantize(source, name="mine", tokens=64, **other)
        assert "`force=True` replaces it" in caught.value.hint
    assert first.path.stat().st_size == first.output_bytes
    second = here.quantize(source, fit="2MiB", name="mine", tokens=64, force=True)
    assert second.path == first.path and second.output_bytes < first.output_bytes
    named = {here.quantize(source, tokens=64, **asked).path.name for asked in (
        dict(max_kld=0.5), dict(max_kld=0.5, options={"pure": True}), dict(max_kld=0.5, max_degradation=0.9),
        dict(fit=2_000_000), dict(fit=2_010_000),
    )}
    assert len(named) == 5, named
    record = next(record for record in here.models() if record.name == "mine")
    assert record.path == second.path and here.path_of(record) == second.path


def test_options_may_be_of_pythons_kinds(source, tmp_path):
    types = {"attn_v": "Q8_0", "ffn_down": "Q6_K"}
    sizes = set()
    for given in (types, [f"{name}={kind}" for name, kind in types.items()], "attn_v=Q8_0;ffn_down=Q6_K"):
        sizes.add(pajamas.forecast(source, "Q4_0", options={"tensor_types": given, "calibration": None}).output_bytes)
    assert len(sizes) == 1 and sizes.pop() > pajamas.forecast(source, "Q4_0").output_bytes
    text = tmp_path / "text.txt"
    text.write_bytes((source / "validation.txt").read_bytes()[:4000])
    pajamas.quantize(source, "Q4_0", options={"calibration": text}, output_dir=tmp_path, validate=False)
    for wrong in ([("pure", True)], {"pure": object()}):
        with pytest.raises(TypeError, match="option"):
            pajamas.quantize(source, "Q4_0", options=wrong)


def test_tokens_may_come_one_by_one_and_must_be_whole(model):
    tokens = model.tokenize(QUESTION)
    answer = model.generate(tokens, max_tokens=4, temperature=0)
    assert model.generate(iter(tokens), max_tokens=4, temperature=0).tokens == answer.tokens
    assert model.generate(numpy.array(tokens), max_tokens=4, temperature=0).tokens == answer.tokens
    for wrong in ([1.7], ["3"], [None]):
        for call in (model.generate, model.detokenize, model.logits):
            with pytest.raises(TypeError, match="expected token ids"):
                call(wrong)
    with pytest.raises(TypeError, match="a list of messages"):
        model.generate({"role": "user", "content": "x"})
    assert f"{answer:>40}".endswith(str(answer))


def test_half_a_character_is_no_text(model):
    half = chr(0xD800)
    calls = [
        lambda: model.generate(half),
        lambda: model.chat(half),
        lambda: model.chat([{"role": "user", "content": half}]),
        lambda: model.generate("a", stop=half),
        lambda: model.tokenize(half),
        lambda: pajamas.load(half + ".gguf"),
    ]
    for call in calls:
        with pytest.raises(pajamas.UsageError):
            call()


def test_who_stops_the_measuring_has_what_was_made(source, tmp_path):
    def progress(notice):
        if notice.stage == "validating":
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough") as caught:
        pajamas.quantize(source, "Q4_0", output_dir=tmp_path, validate=True, progress=progress)
    assert caught.value.made.path.is_file() and caught.value.made.method == "Q4_0"


def test_after_a_cancelled_task_the_same_may_be_done_again(source, tmp_path):
    async def main():
        for wait in (0.02, 0.1, 0.3):
            with pytest.raises(asyncio.TimeoutError):
                work = pajamas.aio.quantize(source, "Q6_K", output_dir=tmp_path, validate=True, tokens=100_000)
                await asyncio.wait_for(work, wait)
        return await pajamas.aio.quantize(source, "Q6_K", output_dir=tmp_path, validate=False)

    assert asyncio.run(main()).path.is_file()


def test_a_tasks_chat_takes_what_any_chat_takes(made):
    async def main():
        async with pajamas.aio.load(made) as model:
            for wrong, kind in (([1, 2], TypeError), (None, TypeError), ([], pajamas.UsageError)):
                with pytest.raises(kind):
                    model.model.chat(wrong)
                with pytest.raises(kind):
                    await model.chat(wrong)
            return await model.chat(QUESTION, temperature=0)

    assert "Paris" in asyncio.run(main()).text


def test_one_folder_of_plugins_is_a_folder(tmp_path):
    for folder in (tmp_path, str(tmp_path)):
        assert pajamas.Installation(plugin_dirs=folder).backends()
    with pytest.raises(pajamas.UsageError):
        pajamas.load("x", parallel=0)
    with pytest.raises(TypeError):
        pajamas.load("x", progress="yes")


FORKS = """
import os, pajamas, sys, time
stream = pajamas.load({model!r}, isolated=False).stream("a", max_tokens=100_000, ignore_eos=True)
started = time.monotonic()
if os.fork() == 0:
    sys.exit()
os.wait()
assert time.monotonic() - started < 4
"""


def test_a_forked_process_does_not_wait_for_its_parents_work(made, child):
    run = child(FORKS.format(model=str(pathlib.Path(made))))
    assert run.returncode == 0, run


RUNS = """
import pajamas, sys, threading, time
{before}
model = pajamas.load({model!r}, isolated=False, progress=True)
def work():
    while True:
        {work}
threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
"""


@pytest.mark.parametrize(
    ("before", "work"),
    [
        ("", "model.logits([1] * 2000)"),
        ("sys.stderr = None", "model.generate('a', max_tokens=2000, ignore_eos=True)"),
        ("", "list(model.stream('a', max_tokens=2000, ignore_eos=True))"),
    ],
)
def test_the_interpreter_ends_in_the_midst_of_work(made, before, work):
    script = RUNS.format(model=str(pathlib.Path(made)), before=before, work=work)
    for _ in range(3):
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run
