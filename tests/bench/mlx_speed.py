"""Compares the speed of the MLX plugin with that of mlx-lm's stream_generate, on MLX models.

    python mlx_speed.py ANSWER PLUGIN MODEL... [--prompt 256] [--generate 64] [--repetitions 5]

ANSWER is the program of tests/examples/answer.rs; the Python that runs this has mlx-lm. Both get the same token ids, choose
the likeliest token, go past any end of generation, and take turns in changing order. `pp` is prompt tokens per second until
the first token, `tg` is tokens after the first per second since the first; mlx-lm's figure, which counts the first token too,
is put right. Models that are not float32 are run with `compute_dtype=auto`, what users get, and `model`, what mlx-lm does.
"""
import argparse, json, os, subprocess
from importlib.metadata import version
from statistics import median

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm import load, stream_generate
from mlx_lm.generate import generation_stream


class Plugin:
    def __init__(self, answer, plugin, model, compute):
        self.process = subprocess.Popen([answer, plugin, model, f"compute_dtype={compute}"],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, prompt, count):
        print(json.dumps({"prompt": prompt, "tokens": count}), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        return answer["prompt_rate"], answer["generate_rate"], answer["tokens"]

    def close(self):
        self.process.communicate()


class MlxLm:
    def __init__(self, model):
        self.model, self.tokenizer = load(model)
        self.tokenizer.eos_token_ids = []

    def run(self, prompt, count):
        responses = list(stream_generate(self.model, self.tokenizer, prompt, max_tokens=count))
        mx.synchronize(generation_stream)  # it has begun a token more than it was asked for
        last = responses[-1]
        return last.prompt_tps, last.generation_tps * (count - 1) / count, [response.token for response in responses]


def compare(a, model):
    with open(os.path.join(model, "config.json")) as f: config = json.load(f)
    prompt = [(i * 7 + 11) % config["vocab_size"] for i in range(a.prompt)]
    mlx_lm = MlxLm(model)
    types = {value.dtype for _, value in tree_flatten(mlx_lm.model.parameters()) if mx.issubdtype(value.dtype, mx.floating)}
    computes = ["auto"] if types == {mx.float32} else ["auto", "model"]
    sides = {compute: Plugin(a.answer, a.plugin, model, compute) for compute in computes} | {"mlx-lm": mlx_lm}
    for side in sides.values(): side.run(prompt[:16], 8)
    runs = {name: [] for name in sides}
    for repetition in range(a.repetitions):
        for name in list(sides)[:: -1 if repetition % 2 else 1]: runs[name].append(sides[name].run(prompt, a.generate))
    for compute in computes: sides[compute].close()

    theirs = runs.pop("mlx-lm")
    for compute, ours in runs.items():
        same = sum(x == y for x, y in zip(ours[0][2], theirs[0][2]))
        for index, measure in enumerate((f"pp{a.prompt}", f"tg{a.generate}")):
            x, y = [run[index] for run in ours], [run[index] for run in theirs]
            pairs = median(a / b for a, b in zip(x, y))
            print(f"| {os.path.basename(model)} | {compute} | {measure} | {median(x):.1f} | {median(y):.1f} | "
                  f"{median(x) / median(y):.2f} | {pairs:.2f} | {same}/{a.generate} |", flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("answer"); ap.add_argument("plugin"); ap.add_argument("models", nargs="+")
    for name, default in (("--prompt", 256), ("--generate", 64), ("--repetitions", 5)): ap.add_argument(name, type=int, default=default)
    a = ap.parse_args()
    print(f"{mx.default_device()}, mlx {version('mlx')}, mlx-lm {version('mlx-lm')}, {a.repetitions} repetitions\n")
    print("| model | compute_dtype | measure | plugin tok/s | mlx-lm tok/s | ratio of medians | median ratio of pairs | same tokens |")
    print("|---|---|---|---|---|---|---|---|")
    for model in a.models: compare(a, model)
    print("\nTokens part where two are nearly as likely: `auto` computes in float32 on a CPU, and mlx-lm rounds log-probabilities\n"
          "to the model's own type before it takes the greatest.\n")


if __name__ == "__main__":
    main()
