"""Compares what `pajamas benchmark` says of a model with the speed of a bare llama.cpp loop.

    python3 gguf_benchmark.py TARGET PLUGIN MODEL... [--prompt 512] [--generate 64] [--repetitions 2] [--threads N] [--rounds 3]

TARGET holds pajamas, its worker and examples/speed, whose bare side is the loop. They take turns in changing order, each with
its own warm-up. Both do the same work: the loop generates behind its prompt, its first token belonging to the prompt, so it is
compared with one token less at the depth of the prompt without its last token.
"""
import argparse, json, os, re, subprocess
from statistics import median


def bare(a, model):
    """Tokens per second, by measure."""
    options = [f"--{name}={getattr(a, name)}".split("=") for name in ("prompt", "generate", "repetitions", "threads")]
    command = [os.path.join(a.target, "examples/speed"), a.plugin, model, *sum(options, [])]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {kind: float(rate) for kind, rate in re.findall(r"^\| (pp|tg)\d+ \| [^|]+ \| ([\d.]+) ", text, re.M)}


def pajamas(a, model):
    """The same, by `pajamas benchmark`."""
    rates = {}
    context = -(-(a.prompt + a.generate) // 256) * 256
    for kind, test in (("pp", ["-p", a.prompt, "-n", 0]), ("tg", ["-p", 0, "-n", a.generate - 1, "-d", a.prompt - 1])):
        command = [os.path.join(a.target, "pajamas"), "benchmark", model, "--json", "--plugin-dir", os.path.dirname(a.plugin), "-b", "gguf-cpu",
                   *test, "-r", a.repetitions, "--threads", a.threads, "--context-length", context]
        text = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout
        rates[kind] = json.loads(text)["runs"][0]["tests"][0]["tokens_per_second"]["mean"]
    return rates


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("target"); ap.add_argument("plugin"); ap.add_argument("models", nargs="+", metavar="model")
    numbers = ("--prompt", 512), ("--generate", 64), ("--repetitions", 2), ("--threads", os.cpu_count()), ("--rounds", 3)
    for name, default in numbers: ap.add_argument(name, type=int, default=default)
    a = ap.parse_args()
    print(f"`pajamas benchmark` beside the bare loop: {a.threads} threads, {a.rounds} rounds of {a.repetitions} repetitions\n")
    print("| model | measure | pajamas benchmark tok/s | bare tok/s | ratio of medians | median ratio of pairs |\n|---|---|---|---|---|---|")
    for model in a.models:
        sides = {bare: [], pajamas: []}
        for number in range(a.rounds):
            for side in list(sides)[:: -1 if number % 2 else 1]: sides[side].append(side(a, model))
        for kind, count in (("pp", a.prompt), ("tg", a.generate)):
            x, y = ([run[kind] for run in sides[side]] for side in (pajamas, bare))
            pairs = median(a / b for a, b in zip(x, y))
            print(f"| {os.path.basename(model)} | {kind}{count} | {median(x):.2f} | {median(y):.2f} | "
                  f"{median(x) / median(y):.4f} | {pairs:.4f} |", flush=True)
    print()


if __name__ == "__main__":
    main()
