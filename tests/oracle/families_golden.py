"""Recomputes what other software makes of tests/fixtures/families, the tiny models of each supported family that families.py makes.

    python families_golden.py golden  LLAMA_CPP FAMILIES_DIR GOLDEN_DIR [NAME...]
    python families_golden.py compare LLAMA_CPP FAMILIES_DIR NAME OUTTYPE GGUF

FAMILIES_DIR is tests/fixtures/families, GOLDEN_DIR tests/fixtures/golden/families, and LLAMA_CPP llama.cpp's source folder, as in
converter_golden.py.  Needs torch, transformers 5, sentencepiece, safetensors, protobuf and pyyaml.  A second run writes the same bytes.
`golden` takes about six minutes, most of them for starting the converter three times a model.
"""
import argparse, json, os, pathlib, sys
from importlib.metadata import version

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import sentencepiece
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.mxfp4 import convert_moe_packed_tensors
from transformers.utils.logging import disable_progress_bar

import converter_golden
from families import MODELS

TOKENS, ROWS, COLUMNS = 96, [0, 17, 40, 63, 64, 95], 16
PACKAGES = ("torch", "transformers", "tokenizers", "sentencepiece")

# What the tokenizers are tried on.
TEXTS = [
    "", "a", " ", "  ", "    four spaces", "Hello, world!", " leading", "trailing ", "two  between   three    four",
    "The traveller said: there is no place like home.",
    "It's what they're saying; I'LL go, WE'VE saved, don't 'tis 's.", "HTTPServer camelCase SHOUTING iPhone", "1 12 123 1234 12345 3.14 1000000 x2y",
    "a\tb\t\tc\r\nd",
    "a\nb\n\nc\n\n\nd", "\n", "\n\n \n", " \n x \t\n", "!\n\n?/\n", "fn main() {\n    let x = 1;\n    println!(\"{}\", x);\n}\n",
    "def f(a, b):\n\treturn a // b  # half\n",
    "https://example.org/a/b?x=1&y=2", "Über grüne Straßen, très déjà, mañana, coração", "e\u0301 A\u030a composed later", "Столица страны, это сон",
    "Η αλεπού είναι εδώ",
    "这是世界，我们的模型。", "これは日本のモデルです。カタカナ", "이것은 모델이다", "مرحبا بالعالم ١٢٣", "यह मॉडल है १२३", "שלום עולם", "สวัสดี",
    "\U0001f642 ok \U0001f468\u200d\U0001f469\u200d\U0001f467 family \U0001f1eb\U0001f1f7 \U0001f44d\U0001f3fd \u2764\ufe0f",
    "\u2581 already \u2581\u2581 there", "½ ² Ⅷ ₤ → … « »",
    "a\u00a0b\u3000c\u200bd\ufeffe", "nul\x00del\x7f\x85", "<0x41> <0xE4>", "...---___***===!!!???",
]

CONVERSATION = [{"role": "user", "content": "Hello! What is it?"}, {"role": "assistant", "content": "It is a model."}]


def rounded(x): return float(f"{x:.6g}")


def load(folder, change, rope):
    """The model in single precision; `change` replaces entries of its configuration, `rope` some about positions."""
    config = AutoConfig.from_pretrained(folder)
    for key, value in change.items(): setattr(config, key, value)
    config.rope_parameters.update(rope)
    if hasattr(config, "quantization_config"): return load_mxfp4(folder, config)
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
    missing = {name for name in report["missing_keys"] if not (name == "lm_head.weight" and config.tie_word_embeddings)}
    assert not missing and not report["unexpected_keys"] and not report["mismatched_keys"], report
    assert all(tensor.dtype == torch.float32 for tensor in model.parameters())
    return model.eval()


def load_mxfp4(folder, config):
    """The same from blocks of four bits, which transformers itself would only load with a package more."""
    del config.quantization_config
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_blocks")]:
        plain = name.removesuffix("_blocks")
        tensors[plain] = convert_moe_packed_tensors(tensors.pop(name), tensors.pop(f"{plain}_scales"), dtype=torch.float32)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager")
    model.load_state_dict(tensors)
    return model.eval()


@torch.inference_mode()
def logits(folder, vocabulary, tokens=TOKENS, change={}, rope={}):
    ids = [(7 * i * i + 3 * i) % vocabulary for i in range(tokens)]
    made = load(folder, change, rope)(torch.tensor([ids])).logits[0]
    rows = []
    for row in [row for row in ROWS if row < tokens]:
        best = made[row].topk(2)
        rows.append({"row": row, "best": best.indices[0].item(), "margin": rounded((best.values[0] - best.values[1]).item()),
                     "logits": [rounded(x) for x in made[row, :COLUMNS].tolist()]})
    return {"tokens": tokens, "vocabulary": vocabulary, "rows": rows}


def tokens(folder, tokenizer, special):
    """The ids of each text, and what special tokens are set before them where such are asked for."""
    before, rows = None, []
    for text in TEXTS + special:
        ids = tokenizer.encode(text, add_special_tokens=False)
        complete = tokenizer.encode(text)
        if before is None: before = complete
        assert complete == before + ids, (text, complete, ids)
        rows.append({"text": text, "ids": ids})
    # Second opinions, kept where they differ.  SentencePiece sets a space before a text even if it starts with one, which transformers does not
    # where "legacy" is false; and it takes the longest run of a written "▁" and the space behind it, where transformers looks for the written ones
    # first.  tokenizer.json is what the tokenizers package makes of that file alone, where transformers sets up the tokenizer by its class.
    if (folder / "tokenizer.model").is_file():
        spm = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        for row in rows[:len(TEXTS)]:
            ids = spm.encode(row["text"])
            if ids != row["ids"]: row["sentencepiece"] = ids
    if (folder / "tokenizer.json").is_file():
        plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
        for row in rows:
            ids = plain.encode(row["text"], add_special_tokens=False).ids
            if ids != row["ids"]: row["tokenizer.json"] = ids
    return before, rows


def describe(llama_cpp, folder, pre_tokenizer):
    result = {}
    for outtype in ("auto", "f16", "f32"):
        made, made["file_sha256"] = converter_golden.oracle(llama_cpp, str(folder), pre_tokenizer or "none", outtype)
        # Most metadata does not depend on the type.
        if outtype != "auto":
            made["metadata"] = {key: value for key, value in made["metadata"].items() if value != result["auto"]["metadata"].get(key)}
        result[outtype] = made
    return result


def golden(llama_cpp, families, out, names):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for name in names or MODELS:
        folder, model = pathlib.Path(families) / name, MODELS[name]()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        before, rows = tokens(folder, tokenizer, model.get("texts", []))
        result = {
            "versions": {package: version(package) for package in PACKAGES}, "pre_tokenizer": model.get("pre_tokenizer"),
            "special": {kind: getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad", "unk")},
            "before": before, "tokens": rows,
            "logits": logits(folder, len(tokenizer)),
        }
        if tokenizer.chat_template: result["rendered"] = tokenizer.apply_chat_template(CONVERSATION, tokenize=False)
        for variant, change in model.get("variants", {}).items(): result[variant] = logits(folder, len(tokenizer), **change)
        result["converter"] = describe(llama_cpp, folder, model.get("pre_tokenizer"))
        (out / f"{name}.json").write_text(compact(result) + "\n", encoding="utf-8")
        print(name, (out / f"{name}.json").stat().st_size, "bytes", flush=True)


def compact(value, indent=""):
    """JSON with a line for each item, but for the innermost lists and dictionaries and those in lists."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    if not any(isinstance(item, (dict, list)) for item in items):
        return json.dumps(value, ensure_ascii=False)
    inside = indent + " "
    if isinstance(value, list): return "[\n" + ",\n".join(inside + json.dumps(item, ensure_ascii=False) for item in value) + f"\n{indent}]"
    if "type" in value: return json.dumps(value, ensure_ascii=False)
    return "{\n" + ",\n".join(f"{inside}{json.dumps(key)}: {compact(item, inside)}" for key, item in value.items()) + f"\n{indent}}}"


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = ap.add_subparsers(dest="command", required=True)
    for command, arguments in {"golden": ["llama_cpp", "families", "golden", "names*"],
                               "compare": ["llama_cpp", "families", "name", "outtype", "gguf"]}.items():
        parser = commands.add_parser(command)
        for argument in arguments: parser.add_argument(argument.rstrip("*"), **({"nargs": "*"} if argument.endswith("*") else {}))
    a = ap.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    if a.command == "golden": golden(a.llama_cpp, a.families, a.golden, a.names)
    else:
        pre_tokenizer = MODELS[a.name]().get("pre_tokenizer") or "none"
        sys.exit(1 if converter_golden.compare(a.llama_cpp, str(pathlib.Path(a.families) / a.name), pre_tokenizer, a.outtype, a.gguf) else 0)


if __name__ == "__main__":
    main()
