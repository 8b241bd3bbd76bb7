"""Makes a model small, sees how good it still is, and streams an answer.

    python quick_start.py MODEL [QUESTION]
"""

import sys

import pajamas


def main(model: str, question: str = "What is the capital of France?") -> None:
    made = pajamas.quantize(model, "Q4_K_M", progress=True)
    print(f"{made.path}: {made.ratio:.2f} times smaller", file=sys.stderr)
    if made.validation and made.validation["comparison"]:
        print("mean KL divergence:", made.validation["comparison"]["kl_divergence"]["mean"], file=sys.stderr)

    with pajamas.load(made) as loaded:
        stream = loaded.stream([{"role": "user", "content": question}], temperature=0)
        for piece in stream:
            print(piece, end="", flush=True)
        print()
        assert stream.answer is not None
        print(f"{stream.answer.tokens_per_second:.0f} tokens per second on {loaded.backend}", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
