"""Recomputes golden/mlx-quantize.json with mlx-lm: digests of what mlx_lm.convert makes of small models.

    pip install mlx mlx-lm numpy      # on Linux: pip install "mlx[cpu]" mlx-lm numpy
    python tests/oracle/mlx_quantize_golden.py tests/fixtures/pajama-tiny tests/fixtures/golden/mlx-quantize.json

Takes about half a minute. Besides pajama-tiny, the models are made here, from sizes and from a formula
for the weights (`values`) that the Rust test repeats; the JSON file holds their configurations and the list of their tensors.

Per conversion it holds three digests:
- tensors: SHA-256 over all tensors by name: name, dtype and dimensions (`1280x64`), each with a newline after it, then the bytes;
- quantization: the first 16 digits of the SHA-256 of config.json's `quantization` as compact JSON with sorted keys;
- index: the same of model.safetensors.index.json.
"""
import argparse, contextlib, hashlib, io, json, os, re, shutil, tempfile
from importlib.metadata import version

import numpy as np
from mlx_lm.convert import QUANT_RECIPES, convert

M64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
WIDTH = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4}


def mix(x):
    """The finalizer of SplitMix64, on an array of uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def values(name, count):
    """The float32 weights of a tensor: 24-bit numbers by name and index, in runs of 32 of which some are special."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 & M64
    draw = lambda index: mix(np.uint64(seed) + (index + np.uint64(1)) * np.uint64(GOLDEN))
    index = np.arange(count, dtype=np.uint64)
    number = lambda bits: ((bits >> np.uint64(40)).astype(np.int64) - (1 << 23)).astype(np.float32) * np.float32(2.0**-27)
    bits = draw(index)
    plain, first = number(bits), number(draw(index // np.uint64(32) * np.uint64(32)))
    kind = draw(index // np.uint64(32) + np.uint64(1 << 40)) >> np.uint64(60)
    special = {
        0: np.zeros_like(plain), 1: first, 2: np.abs(plain), 3: -np.abs(plain), 4: plain * np.float32(2.0**-20),
        5: plain * np.float32(64), 6: np.where(bits & np.uint64(1) == 0, np.float32(-0.0), plain),
    }
    for number_of_kind, alternative in special.items():
        plain = np.where(kind == number_of_kind, alternative, plain)
    return plain.astype(np.float32)


def stored(name, dtype, shape):
    x = values(name, int(np.prod(shape)))
    if dtype == "F16": return x.astype("<f2").tobytes()
    if dtype == "BF16": return (x.view(np.uint32) >> 16).astype("<u2").tobytes()
    return x.astype("<f4").tobytes()


def blocks(config, dtype, q_bias=False, o_bias=False, mlp_bias=False, norms=(), extra=()):
    """The tensors of the common decoder, as [name, dtype, shape]."""
    hidden, wide, vocabulary = (config[key] for key in ("hidden_size", "intermediate_size", "vocab_size"))
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    tensors = [["model.embed_tokens.weight", dtype, [vocabulary, hidden]], ["model.norm.weight", dtype, [hidden]],
               ["lm_head.weight", dtype, [vocabulary, hidden]]]
    matrices = [("self_attn.q_proj", q, hidden, q_bias), ("self_attn.k_proj", kv, hidden, q_bias), ("self_attn.v_proj", kv, hidden, q_bias),
                ("self_attn.o_proj", hidden, q, o_bias), ("mlp.gate_proj", wide, hidden, mlp_bias), ("mlp.up_proj", wide, hidden, mlp_bias),
                ("mlp.down_proj", hidden, wide, mlp_bias)]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for path, rows, columns, bias in matrices:
            tensors.append([f"{prefix}{path}.weight", dtype, [rows, columns]])
            if bias: tensors.append([f"{prefix}{path}.bias", dtype, [rows]])
        for path in ("input_layernorm", "post_attention_layernorm"): tensors.append([f"{prefix}{path}.weight", dtype, [hidden]])
        for path in norms: tensors.append([f"{prefix}{path}.weight", "F32", [head]])
        for path in extra: tensors.append([f"{prefix}{path}", "F32", [head // 2]])
    return tensors


def models():
    common = {"hidden_act": "silu", "rms_norm_eps": 1e-05, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2}
    # Single precision that is cast to what the configuration states; rows of 352, which only 32 divides; biases everywhere; enough
    # blocks for the mixed recipes; the rotary embedding as transformers 5 writes it.
    llama = common | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 9,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "attention_bias": True, "mlp_bias": True, "_name_or_path": "somewhere",
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                            "original_max_position_embeddings": 256},
    }
    # Half precision, buffers that are left out, rows of 416.
    mistral = common | {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": 256, "intermediate_size": 416, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 1, "vocab_size": 96, "tie_word_embeddings": False, "torch_dtype": "float16",
        "rope_theta": 1000000.0, "sliding_window": 64,
    }
    # Two types in one checkpoint and no torch_dtype, so that nothing is cast; rows of 240, which nothing divides; a stored copy of a
    # shared embedding; ends of text in generation_config.json.
    qwen3 = common | {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 3,
        "num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 20, "vocab_size": 112, "tie_word_embeddings": True, "dtype": "bfloat16",
        "rope_theta": 1000000.0,
    }
    return {
        "llama": (llama, None, blocks(llama, "F32", q_bias=True, o_bias=True, mlp_bias=True)),
        "mistral": (mistral, None, blocks(mistral, "F16", extra=["self_attn.rotary_emb.inv_freq"])),
        "qwen3": (qwen3, {"eos_token_id": [2, 1]}, blocks(qwen3, "BF16", norms=["self_attn.q_norm", "self_attn.k_norm"])),
    }


def write_model(folder, tokenizer, config, generation_config, tensors):
    os.makedirs(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"): shutil.copyfile(os.path.join(tokenizer, name), os.path.join(folder, name))
    with open(os.path.join(folder, "config.json"), "w") as f: json.dump(config, f)
    if generation_config is not None:
        with open(os.path.join(folder, "generation_config.json"), "w") as f: json.dump(generation_config, f)
    header, end, data = {"__metadata__": {"format": "pt"}}, 0, []
    for name, dtype, shape in tensors:
        data.append(stored(name, dtype, shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data[-1])]}
        end += len(data[-1])
    head = json.dumps(header).encode()
    with open(os.path.join(folder, "model.safetensors"), "wb") as f: f.write(len(head).to_bytes(8, "little") + head + b"".join(data))


def compact(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def digests(folder):
    tensors = {}
    for file in sorted(name for name in os.listdir(folder) if name.endswith(".safetensors")):
        raw = open(os.path.join(folder, file), "rb").read()
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:8 + length])
        assert header.pop("__metadata__") == {"format": "mlx"}
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            tensors[name] = (entry["dtype"], entry["shape"], raw[8 + length + start:8 + length + end])
    digest = hashlib.sha256()
    for name, (dtype, shape, data) in sorted(tensors.items()):
        assert len(data) == WIDTH[dtype] * int(np.prod(shape))
        digest.update(f"{name}\n{dtype}\n{'x'.join(map(str, shape))}\n".encode() + data)
    config = json.load(open(os.path.join(folder, "config.json")))
    index = json.load(open(os.path.join(folder, "model.safetensors.index.json")))
    quantization = config.pop("quantization", None)
    assert config.pop("quantization_config", None) == quantization
    return config, [digest.hexdigest(), compact(quantization), compact(index)]


def conversions():
    """Name and arguments of each: `RECIPE`, `RECIPE/GROUP_SIZE` or `RECIPE/GROUP_SIZE/DTYPE`."""
    dtypes = ["float16", "bfloat16", "float32"]
    for bits in (2, 3, 4, 5, 6, 8):
        for group_size in (32, 64, 128):
            for dtype in [None, *dtypes]:
                name = f"{bits}bit/{group_size}" + (f"/{dtype}" if dtype else "")
                yield name, dict(quantize=True, q_bits=bits, q_group_size=group_size, dtype=dtype)
    for recipe in QUANT_RECIPES:
        for group_size in (32, 64, 128): yield f"{recipe}/{group_size}", dict(quantize=True, q_group_size=group_size, quant_predicate=recipe)
    for recipe, dtype in zip(("f16", "bf16", "f32"), dtypes): yield recipe, dict(dtype=dtype)


def golden(source):
    configs, table = [], {}
    for name, arguments in conversions():
        with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
            folder = os.path.join(scratch, "mlx")
            convert(source, folder, **arguments)
            config, table[name] = digests(folder)
        if config not in configs: configs.append(config)
    assert len(configs) == 1, "the configuration depends on the conversion in more than its quantization"
    return configs[0], table


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("tiny", metavar="PAJAMA_TINY_DIR"); ap.add_argument("out", metavar="OUT_JSON")
    a = ap.parse_args()
    result = {"versions": {name: version(name) for name in ("mlx", "mlx-lm", "transformers")}, "models": {}}
    config, table = golden(a.tiny)
    result["models"]["pajama-tiny"] = {"config": config, "conversions": table}
    for name, (config, generation_config, tensors) in models().items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = os.path.join(scratch, name)
            write_model(folder, a.tiny, config, generation_config, tensors)
            made, table = golden(folder)
        source = {"config": config, "generation_config": generation_config, "tensors": tensors}
        result["models"][name] = {"source": source, "config": made, "conversions": table}
        print(name, len(table), "conversions")
    # One line per conversion and per tensor, so that a change shows as such.
    text = json.dumps(result, indent=1)
    with open(a.out, "w") as f: f.write(fold(text) + "\n")


def fold(text):
    """Joins the lines of innermost lists."""
    return re.sub(r"\[[^\[\]{}]*\]", lambda list_: re.sub(r"\s*\n\s*", " ", list_[0]).replace("[ ", "[").replace(" ]", "]"), text)


if __name__ == "__main__":
    main()
