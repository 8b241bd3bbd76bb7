"""Recomputes host/assets/backend-check/: the small model that a backend's arithmetic is checked with, and its logits.

    pip install torch transformers gguf safetensors
    python backend_check_golden.py RELEASE_DIR MODEL_DIR OUT_DIR

RELEASE_DIR holds pajamas, pajamas-worker and the gguf-cpu plugin; MODEL_DIR is a Hugging Face folder of Qwen2's architecture
with a validation.txt.  Written are model.gguf (MODEL_DIR in Q4_K_M by pajamas), logits.f32 (rows of little-endian float32) and
golden.json.  The logits are what transformers computes in float32 from the weights that gguf-py dequantizes from model.gguf:
neither pajamas nor llama.cpp has a part in them.

It also prints how far off some wrong computations are, in the measure that the program uses: the mean square of the error over
that of the logits, each row's mean taken away.
"""
import argparse, json, os, pathlib, shutil, subprocess, tempfile

import gguf, numpy, torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

TOKENS, FIRST_ROW = 32, 16

BLOCK = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def quantize(release, model, out):
    """model.gguf: made in a folder of its own, so that nothing in it tells where."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        shutil.copytree(model, folder / "pajama-tiny")
        (folder / "plugins").mkdir()
        (folder / "home").mkdir()
        library = next(path for path in release.glob("*gguf_cpu.*") if path.suffix in (".so", ".dylib"))
        shutil.copy(library, folder / "plugins")
        environment = {**os.environ, "PAJAMAS_HOME": str(folder / "home")}
        subprocess.run([release.resolve() / "pajamas", "--plugin-dir", "plugins", "quantize", "pajama-tiny", "-m", "Q4_K_M",
                        "--no-validate", "-o", "out"], cwd=folder, env=environment, check=True)
        made = folder / "out" / "pajama-tiny-q4_k_m.gguf"
        assert str(folder).encode() not in made.read_bytes(), "it tells where it was made"
        shutil.copy(made, out / "model.gguf")


def weights(path, change=None):
    """The tensors of a GGUF file in float32, by the names that transformers has for them."""
    state, types = {}, {}
    for tensor in gguf.GGUFReader(path).tensors:
        name, kind = tensor.name.rsplit(".", 1)
        parts = name.split(".")
        name = f"model.layers.{parts[1]}.{BLOCK[parts[2]]}" if parts[0] == "blk" else WHOLE[name]
        raw = tensor.data
        if change is not None:
            raw = change(tensor.tensor_type, raw)
        values = gguf.dequantize(raw, tensor.tensor_type).astype(numpy.float32)
        state[f"{name}.{kind}"] = torch.from_numpy(values.reshape([int(n) for n in reversed(tensor.shape)]).copy())
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + 1
    return state, types


def logits(config, state, tokens):
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(torch.float32).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0, FIRST_ROW:].numpy()


def nmse(got, expected):
    got, expected = (rows.astype(numpy.float64) - rows.mean(axis=1, keepdims=True) for rows in (got, expected))
    return ((got - expected) ** 2).sum() / (expected ** 2).sum()


def minima_forgotten(kind, raw):
    """Q4_K blocks without their minima: a kernel that leaves out one term."""
    if kind != gguf.GGMLQuantizationType.Q4_K:
        return raw
    blocks = raw.copy().reshape(-1, 144)
    blocks[:, 2:4] = 0
    return blocks.reshape(raw.shape)


def main():
    parser = argparse.ArgumentParser()
    for name in ("release", "model", "out"):
        parser.add_argument(name, type=pathlib.Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    quantize(args.release, args.model, args.out)
    config = AutoConfig.from_pretrained(args.model)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    tokens = tokenizer((args.model / "validation.txt").read_text(), add_special_tokens=False).input_ids[:TOKENS]
    state, types = weights(args.out / "model.gguf")
    expected = logits(config, state, tokens)
    (args.out / "logits.f32").write_bytes(expected.astype("<f4").tobytes())
    golden = {"tokens": tokens, "first_row": FIRST_ROW, "vocabulary": expected.shape[1],
              "versions": {"torch": torch.__version__, "transformers": transformers.__version__,
                           "gguf": __import__("importlib.metadata").metadata.version("gguf")}}
    (args.out / "golden.json").write_text(json.dumps(golden) + "\n")
    print("tensors:", types)

    rope = AutoConfig.from_pretrained(args.model)
    rope.rope_theta *= 1.5
    noisy = {name: value * (1 + 0.02 * torch.randn_like(value)) for name, value in state.items()}
    half = {name: value.half().float() for name, value in state.items()}
    original = AutoModelForCausalLM.from_pretrained(args.model, torch_dtype=torch.float32).state_dict()
    for what, got in [
        ("weights rounded to float16", logits(config, half, tokens)),
        ("weights off by 2 % at random", logits(config, noisy, tokens)),
        ("the model before quantizing", logits(config, original, tokens)),
        ("rope base 1.5 times too large", logits(rope, state, tokens)),
        ("minima of Q4_K left out", logits(config, weights(args.out / "model.gguf", minima_forgotten)[0], tokens)),
        ("one layer left out", logits(config, {**state, **{k: v * 0 for k, v in state.items() if ".layers.2." in k
                                                            and "_proj.weight" in k}}, tokens)),
        ("each row one position late", numpy.roll(expected, 1, axis=0)),
    ]:
        print(f"{what}: {nmse(got, expected):.2e}")


if __name__ == "__main__":
    main()
