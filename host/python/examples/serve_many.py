"""Answers several questions at once with one model: the requests share the passes through it.

    python serve_many.py MODEL QUESTION...
"""

import asyncio
import sys

import pajamas.aio


async def main(model: str, *questions: str) -> None:
    async with pajamas.aio.load(model, parallel=len(questions)) as loaded:
        answers = await asyncio.gather(*(loaded.chat(question, temperature=0) for question in questions))
    for question, answer in zip(questions, answers):
        print(f"{question} {answer}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
