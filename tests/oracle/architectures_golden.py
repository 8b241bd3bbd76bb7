"""Recomputes golden/architectures.json: logits of small models of each architecture by transformers, in float32.

    pip install torch transformers numpy mlx-lm      # on Linux also "mlx[cpu]"
    python architectures_golden.py MODEL_DIR GOLDEN_DIR

The models are those of mlx_quantize_golden.py and variants of them; MODEL_DIR lends its tokenizer.  For each, TOKENS
tokens by a formula, and of some positions the token of the greatest logit, its margin, and the first logits.
"""
import argparse, json, os, tempfile

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mlx_quantize_golden import models, write_model

TOKENS, ROWS, COLUMNS = 160, [0, 31, 63, 64, 65, 100, 159], 8


def rounded(x): return float(f"{x:.6g}")


def variants():
    made = models()
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000000.0}
    for name, base, change in [
        ("llama-llama3", "llama", {}), ("mistral-window", "mistral", {}), ("mistral-yarn", "mistral", {"sliding_window": None, "rope_parameters": yarn}),
        ("qwen3", "qwen3", {}), ("qwen3-linear", "qwen3", {"rope_parameters": linear}),
    ]:
        config, generation_config, tensors = made[base]
        # A second copy of a shared embedding would be taken for the output layer.
        tensors = [t for t in tensors if t[0] != "lm_head.weight" or not config["tie_word_embeddings"]]
        yield name, base, change, config | change, generation_config, tensors


@torch.inference_mode()
def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("model_dir"); ap.add_argument("golden_dir")
    a = ap.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, base, change, config, generation_config, tensors in variants():
        with tempfile.TemporaryDirectory() as dir:
            folder = os.path.join(dir, "model")
            write_model(folder, a.model_dir, config, generation_config, tensors)
            model = AutoModelForCausalLM.from_pretrained(folder, config=AutoConfig.from_pretrained(folder), dtype=torch.float32,
                                                         attn_implementation="eager").eval()
            ids = [(7 * i * i + 3 * i) % config["vocab_size"] for i in range(TOKENS)]
            logits = model(torch.tensor([ids])).logits[0]
        picked = []
        for row in ROWS:
            best = logits[row].topk(2)
            picked.append({"row": row, "best": best.indices[0].item(), "margin": rounded((best.values[0] - best.values[1]).item()),
                           "logits": [rounded(x) for x in logits[row, :COLUMNS].tolist()]})
        rows.append({"name": name, "base": base, "config": change, "rows": picked})
    with open(os.path.join(a.golden_dir, "architectures.json"), "w", encoding="ascii", newline="\n") as f:
        f.write(f'{{\n"tokens": {TOKENS},\n"models": [\n  ' + ",\n  ".join(json.dumps(row) for row in rows) + "\n]\n}\n")


if __name__ == "__main__":
    main()
