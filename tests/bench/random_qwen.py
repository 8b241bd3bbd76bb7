"""Makes a Hugging Face folder with the exact shapes of a Qwen2.5 and random bfloat16 weights, for speed and memory measurements.

    pip install numpy
    python random_qwen.py PAJAMA_TINY_DIR OUT_DIR [--size 0.5b|1.5b|7b|small]

The tokenizer is pajama-tiny's, so only its 1,104 ids mean anything; vocab_size stays Qwen2.5's and the converter pads.
The weights (988 MB, 3.1 GB, 15 GB) are written tensor by tensor, so little memory is needed, and a seed always gives the same
files: one, or where that would be larger than 4 GB, several and an index. `small` is the same architecture with 14 million parameters.
"""
import argparse, json, os, shutil

import numpy as np

# Hidden size, layers, heads, key-value heads, size of the feed-forward layer, vocabulary, whether the output is the embeddings.
SIZES = {
    "0.5b": (896, 24, 14, 2, 4864, 151936, True),
    "1.5b": (1536, 28, 12, 2, 8960, 151936, True),
    "7b": (3584, 28, 28, 4, 18944, 152064, False),
    "small": (512, 4, 8, 2, 1536, 4096, True),
}
CHUNK = 1 << 22
FILE_BYTES_MAX = 4_000_000_000


def config(size):
    hidden, layers, heads, kv_heads, ffn, vocabulary, tied = SIZES[size]
    return {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "hidden_act": "silu",
        "hidden_size": hidden, "initializer_range": 0.02, "intermediate_size": ffn, "max_position_embeddings": 32768,
        "max_window_layers": layers, "model_type": "qwen2", "num_attention_heads": heads, "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768,
        "tie_word_embeddings": tied, "torch_dtype": "bfloat16", "use_cache": True, "use_sliding_window": False,
        "vocab_size": vocabulary,
    }


def shapes(size):
    hidden, layers, heads, kv_heads, ffn, vocabulary, tied = SIZES[size]
    kv = hidden // heads * kv_heads
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for i in range(layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (hidden,)
        for name, rows in (("q", hidden), ("k", kv), ("v", kv)):
            yield f"{p}self_attn.{name}_proj.weight", (rows, hidden)
            yield f"{p}self_attn.{name}_proj.bias", (rows,)
        yield p + "self_attn.o_proj.weight", (hidden, hidden)
        yield p + "post_attention_layernorm.weight", (hidden,)
        yield p + "mlp.gate_proj.weight", (ffn, hidden)
        yield p + "mlp.up_proj.weight", (ffn, hidden)
        yield p + "mlp.down_proj.weight", (hidden, ffn)
    yield "model.norm.weight", (hidden,)
    if not tied: yield "lm_head.weight", (vocabulary, hidden)


def bf16(x):
    """The upper halves of float32 values: bfloat16 by truncation."""
    return (x.view(np.uint32) >> 16).astype("<u2")


def bytes_of(shape):
    return 2 * int(np.prod(shape))


def split(tensors):
    """The tensors of each file, in order."""
    files, size = [[]], 0
    for name, shape in tensors:
        if files[-1] and size + bytes_of(shape) > FILE_BYTES_MAX:
            files.append([])
            size = 0
        files[-1].append((name, shape))
        size += bytes_of(shape)
    return files


def write_file(path, tensors, r):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        start, end = end, end + bytes_of(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(len(head).to_bytes(8, "little") + head)
        for name, shape in tensors:
            left = int(np.prod(shape))
            if name.endswith("norm.weight"):
                bf16(np.ones(left, np.float32)).tofile(f)
                continue
            while left:
                x = r.standard_normal(min(left, CHUNK), np.float32)
                x *= np.float32(0.02)
                bf16(x).tofile(f)
                left -= x.size
    return end


def write_weights(folder, size, seed):
    """Returns how many parameters there are."""
    r = np.random.Generator(np.random.PCG64(seed))
    files = split(shapes(size))
    names = ["model.safetensors"] if len(files) == 1 else [f"model-{i + 1:05}-of-{len(files):05}.safetensors" for i in range(len(files))]
    total = sum(write_file(os.path.join(folder, name), tensors, r) for name, tensors in zip(names, files))
    if len(files) > 1:
        weight_map = {tensor: name for name, tensors in zip(names, files) for tensor, _ in tensors}
        with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
            json.dump({"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}, f, indent=2)
    return total // 2


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("tokenizer_dir", metavar="PAJAMA_TINY_DIR"); ap.add_argument("out_dir"); ap.add_argument("--seed", type=int, default=7)
    ap.add_argument("--size", choices=SIZES, default="0.5b")
    a = ap.parse_args()
    os.makedirs(a.out_dir, exist_ok=True)
    tiny = lambda name: os.path.join(a.tokenizer_dir, name)
    out = lambda name: os.path.join(a.out_dir, name)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"): shutil.copyfile(tiny(name), out(name))
    with open(tiny("config.json")) as f: ids = {k: v for k, v in json.load(f).items() if k.endswith("_token_id")}
    with open(out("config.json"), "w") as f: json.dump(dict(sorted((config(a.size) | ids).items())), f, indent=2)
    print(f"{write_weights(a.out_dir, a.size, a.seed):,} parameters in {a.out_dir}")


if __name__ == "__main__":
    main()
