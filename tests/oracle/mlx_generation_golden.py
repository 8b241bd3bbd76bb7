"""Recomputes mlx-generation.json: what mlx-lm makes of pajama-tiny, unquantized and quantized, on MLX's CPU.

    pip install "mlx[cpu]" mlx-lm
    python mlx_generation_golden.py MODEL_DIR GOLDEN_DIR

The prompts are those of greedy.json in GOLDEN_DIR.  Greedy answers of STEPS tokens with the margin between the two best
logits at each step, and the perplexity by the protocol of perplexity.json.
"""
import argparse, json, math, os, tempfile

import mlx.core as mx
import mlx_lm
from mlx_lm import convert, load
from mlx_lm.models.cache import make_prompt_cache

STEPS = 64

# name, arguments of mlx_lm.convert
MODELS = [
    ("f32", dict(dtype="float32")),
    ("8bit-float32", dict(dtype="float32", quantize=True, q_bits=8)),
    ("4bit-float32", dict(dtype="float32", quantize=True, q_bits=4)),
    ("bf16", dict(dtype="bfloat16")),
    ("8bit-bfloat16", dict(quantize=True, q_bits=8)),
    ("4bit-bfloat16", dict(quantize=True, q_bits=4)),
]


def rounded(x): return float(f"{x:.6g}")


def greedy(model, prompt):
    cache, ids, margins = make_prompt_cache(model), [], []
    inputs = mx.array([prompt])
    for _ in range(STEPS):
        logits = model(inputs, cache=cache)[0, -1].astype(mx.float32)
        best = mx.argsort(-logits)[:2].tolist()
        # The first of equals, as argmax has it.
        best[0] = mx.argmax(logits).item()
        margins.append(rounded(abs((logits[best[0]] - logits[best[1]]).item())))
        ids.append(best[0])
        inputs = mx.array([[best[0]]])
    return {"ids": ids, "margins": margins}


def perplexity(model, ids, window):
    total, scored = 0.0, 0
    for start in range(0, len(ids), window):
        chunk = mx.array(ids[start:start + window])
        logits = model(chunk[None])[0, :-1].astype(mx.float32)
        losses = mx.logsumexp(logits, axis=-1) - mx.take_along_axis(logits, chunk[1:, None], axis=-1)[:, 0]
        total += sum(losses.tolist()); scored += window - 1
    return rounded(math.exp(total / scored))


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("model_dir"); ap.add_argument("golden_dir")
    a = ap.parse_args()
    read = lambda name: json.load(open(os.path.join(a.golden_dir, name)))
    prompts, protocol = read("greedy.json")["prompts"], read("perplexity.json")
    text = open(os.path.join(a.model_dir, "validation.txt"), encoding="utf-8", newline="").read()
    rows = []
    with tempfile.TemporaryDirectory() as dir:
        for name, arguments in MODELS:
            path = os.path.join(dir, name)
            convert(a.model_dir, path, **arguments)
            model, tokenizer = load(path)
            ids = tokenizer.encode(text, add_special_tokens=False)[:protocol["tokens"]]
            answers = [{"name": p["name"]} | greedy(model, p["prompt_ids"]) for p in prompts]
            rows.append({"name": name, "perplexity": perplexity(model, ids, protocol["window"]), "prompts": answers})
    versions = {"mlx": mx.__version__, "mlx-lm": mlx_lm.__version__}
    lines = [f'"versions": {json.dumps(versions)}', f'"steps": {STEPS}',
             '"models": [\n  ' + ",\n  ".join(json.dumps(row) for row in rows) + "\n]"]
    with open(os.path.join(a.golden_dir, "mlx-generation.json"), "w", encoding="ascii", newline="\n") as f:
        f.write("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
