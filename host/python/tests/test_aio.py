"""The package for asyncio."""

import asyncio
import time

import pytest
from conftest import QUESTION

import pajamas
import pajamas.aio


def test_tasks_share_a_model_and_the_loop_goes_on(made):
    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.002)
                ticks += 1

        async with pajamas.aio.load(made, parallel=3, threads=1) as model:
            ticking = asyncio.create_task(tick())
            questions = [f"What is the capital of {country}?" for country in ("France", "Italy", "Spain")]
            answers = await asyncio.gather(*(model.chat(question, temperature=0) for question in questions))
            # Long enough for the loop to be seen going on, also on a busy machine.
            await model.generate("a", max_tokens=500, ignore_eos=True)
            pieces = [piece async for piece in model.stream([{"role": "user", "content": QUESTION}], temperature=0)]
            ticking.cancel()
            assert model.backend == "gguf-cpu" and model.info["vocabulary_size"] > 0
            assert await model.detokenize(await model.tokenize("Hello")) == "Hello"
            assert (await model.memory_usage()).weights_bytes > 0
        assert model.model.closed
        return [answer.text for answer in answers], "".join(pieces), ticks

    answers, streamed, ticks = asyncio.run(main())
    assert [word in answer for word, answer in zip(("Paris", "Rome", "Madrid"), answers)] == [True] * 3
    assert streamed == "The capital of France is Paris." and ticks > 3


def test_far_more_tasks_than_threads_all_get_their_answers(made):
    async def main():
        async with pajamas.aio.load(made, threads=1) as model:
            options = dict(temperature=0, max_tokens=220, ignore_eos=True)

            async def pieces(number):
                return [piece async for piece in model.stream(f"Story {number}", **options)]

            tasks = [model.generate(f"Story {number}", **options) for number in range(30)]
            tasks += [pieces(number) for number in range(30)]
            # The loop's own threads are free meanwhile.
            others = asyncio.gather(*(asyncio.to_thread(time.sleep, 0.01) for _ in range(20)))
            waiting = [asyncio.ensure_future(task) for task in tasks]
            await asyncio.wait_for(others, 5)
            assert not all(task.done() for task in waiting)
            tasks = waiting
            return await asyncio.wait_for(asyncio.gather(*tasks), 120)

    answers = asyncio.run(main())
    whole, streamed = answers[:30], answers[30:]
    assert [answer.text for answer in whole] == ["".join(pieces) for pieces in streamed]
    assert {answer.generated_tokens for answer in whole} == {220}


def test_cancelling_a_task_stops_its_answer(made):
    async def main():
        async with await pajamas.aio.load(made, threads=1) as model:
            task = asyncio.create_task(model.generate("Once", max_tokens=10**6, ignore_eos=True))
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            started = time.monotonic()
            # The only slot is free again.
            answer = await model.chat(QUESTION, temperature=0)
            return answer.text, time.monotonic() - started

    text, seconds = asyncio.run(main())
    assert "Paris" in text and seconds < 20


def test_cancelling_long_work_stops_it(source, tmp_path):
    async def main():
        task = asyncio.create_task(
            pajamas.aio.sweep(source, formats="gguf", repetitions=1000, tokens=256)
        )
        await asyncio.sleep(1)
        task.cancel()
        started = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - started

    # Ending the loop waits for its threads.
    started = time.monotonic()
    assert asyncio.run(main()) < 20
    assert time.monotonic() - started < 30


def test_failures_are_the_same_exceptions(tmp_path):
    with pytest.raises(pajamas.ModelNotFoundError):
        asyncio.run(pajamas.aio.quantize("no-such-model"))

    async def load():
        await pajamas.aio.load("no-such-model")

    with pytest.raises(pajamas.ModelNotFoundError):
        asyncio.run(load())


def test_every_function_has_its_twin(made, source):
    async def main():
        assert [backend.name for backend in await pajamas.aio.backends()] == [b.name for b in pajamas.backends()]
        assert (await pajamas.aio.hardware())["cpu"] == pajamas.hardware()["cpu"]
        assert made.path.name in [record.file for record in await pajamas.aio.models()]
        assert await pajamas.aio.path_of(made) == pajamas.path_of(made)
        assert (await pajamas.aio.forecast(source, "Q8_0")).output_bytes == made.output_bytes
        offline = pajamas.aio.Installation(offline=True)
        with pytest.raises(pajamas.ModelNotFoundError, match="org/name"):
            await offline.pull("org/name")

    asyncio.run(main())


def test_the_classes_have_what_their_twins_have():
    for name in ("Model", "Stream", "Installation"):
        names = {name for name in dir(getattr(pajamas, name)) if not name.startswith("_")}
        assert names <= set(dir(getattr(pajamas.aio, name))), name


def test_cancelling_logits_stops_them(made):
    async def main():
        async with pajamas.aio.load(made, threads=1) as model:
            for _ in range(3):
                task = asyncio.create_task(model.logits([1] * 2000))
                await asyncio.sleep(0.05)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert (await model.logits([1, 2])).shape[0] == 2

    asyncio.run(main())
