"""Writes the seed corpus anew: small files of each kind, sound and nearly sound, cut from the test model.

    python3 tests/fuzz/make_corpus.py tests/fixtures/pajama-tiny tests/fuzz/corpus
"""
import copy, json, pathlib, struct, sys

MODEL, OUT = map(pathlib.Path, sys.argv[1:])


def put(target, name, data):
    path = OUT / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def dump(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# --- safetensors: the size that the file is said to have, then its first bytes -----------------------------------------

def safetensors(header, data=None, length=None):
    text = (header if isinstance(header, str) else dump(header)).encode()
    if data is None:
        data = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    length = len(text) if length is None else length
    return struct.pack("<QQ", 8 + len(text) + data, length) + text


def tensors(*entries):
    at, header = 0, {}
    for name, dtype, shape, size in entries:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return header


raw = (MODEL / "model.safetensors").read_bytes()
tiny = json.loads(raw[8:8 + struct.unpack("<Q", raw[:8])[0]])
for name, entry in list(tiny.items()):
    if ".layers." in name and ".layers.0." not in name:
        del tiny[name]
metadata = tiny.pop("__metadata__")
at = 0
for entry in tiny.values():
    size = entry["data_offsets"][1] - entry["data_offsets"][0]
    entry["data_offsets"] = [at, at + size]
    at += size
two = tensors(("a", "F32", [2], 8), ("b", "BF16", [2, 3], 12))
put("safetensors_header", "tiny", safetensors({"__metadata__": metadata, **tiny}))
put("safetensors_header", "two", safetensors(two))
put("safetensors_header", "empty", safetensors({}, 0))
put("safetensors_header", "dtypes", safetensors(tensors(
    ("0", "BOOL", [1], 1), ("1", "U8", [], 1), ("2", "I8", [1], 1), ("3", "F8_E5M2", [1], 1), ("4", "F8_E4M3", [1], 1),
    ("5", "I16", [1], 2), ("6", "U16", [1], 2), ("7", "F16", [1], 2), ("8", "I32", [1], 4), ("9", "U32", [1], 4),
    ("A", "F64", [1], 8), ("B", "I64", [1], 8), ("C", "U64", [0, 9], 0), ("D", "F4", [4], 2), ("E", "F6_E2M3", [4], 3))))
put("safetensors_header", "metadata", safetensors({"__metadata__": {"format": "mlx", "": "é\n"}, **two}))
put("safetensors_header", "padded", safetensors(dump(two) + "   ", 20))
put("safetensors_header", "short", safetensors(two, 19))
put("safetensors_header", "long", safetensors(two, 21))
put("safetensors_header", "hole", safetensors({**tensors(("a", "F32", [2], 8)), "b": {
    "dtype": "F32", "shape": [1], "data_offsets": [16, 20]}}))
put("safetensors_header", "overlap", safetensors({**tensors(("a", "F32", [2], 8)), "b": {
    "dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}))
put("safetensors_header", "huge", safetensors(tensors(("a", "U8", [1 << 62], 1 << 62))))
put("safetensors_header", "overflow", safetensors(tensors(("a", "F32", [1 << 62, 8], 8))))
put("safetensors_header", "twice", safetensors('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
                                               '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1))
put("safetensors_header", "length", safetensors(two, length=99_999_999))
put("safetensors_header", "pointer", b"\x40" + bytes(7) + b"version https://git-lfs.github.com/spec/v1\n")


# --- GGUF: likewise -----------------------------------------------------------------------------------------------------

def text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}


def value(kind, data):
    if kind == 8:
        return text(data)
    if kind == 9:
        element, items = data
        return struct.pack("<IQ", element, len(items)) + b"".join(value(element, item) for item in items)
    return struct.pack("<" + NUMBERS[kind], data)


def key(name, kind, data):
    return text(name) + struct.pack("<I", kind) + value(kind, data)


def tensor(name, shape, kind, offset):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf(keys, infos, size=None, version=3, magic=b"GGUF", counts=None):
    infos_count, keys_count = counts or (len(infos), len(keys))
    file = magic + struct.pack("<IQQ", version, infos_count, keys_count) + b"".join(keys) + b"".join(infos)
    return struct.pack("<Q", size if size is not None else (len(file) + 31) // 32 * 32 + 4096) + file


vocabulary = json.loads((MODEL / "tokenizer.json").read_text())["model"]
tokens = list(vocabulary["vocab"])[:24]
model = [
    key("general.architecture", 8, "qwen2"), key("general.name", 8, "Pajama Tiny"), key("general.alignment", 4, 32),
    key("qwen2.block_count", 4, 4), key("qwen2.rope.freq_base", 6, 1e4), key("tokenizer.ggml.model", 8, "gpt2"),
    key("tokenizer.ggml.tokens", 9, (8, tokens)), key("tokenizer.ggml.token_type", 9, (5, [1] * len(tokens))),
    key("tokenizer.ggml.merges", 9, (8, ["a b", "c d"])), key("tokenizer.ggml.add_bos_token", 7, 0),
    key("pajamas.validation", 8, " " * 64),
]
infos = [tensor("token_embd.weight", [256, 2], 12, 0), tensor("output_norm.weight", [256], 0, 288)]
put("gguf_header", "model", gguf(model, infos))
put("gguf_header", "version2", gguf(model, infos, version=2))
put("gguf_header", "types", gguf(
    [key(f"k{kind}", kind, 1) for kind in NUMBERS] + [key("s", 8, ""), key("nested", 9, (9, [(9, [(8, ["x"])]), (0, [])]))], []))
put("gguf_header", "shapes", gguf([], [tensor(str(kind), [256, 1, 1, 1], kind, 0) for kind in [*range(4), *range(6, 31), 39, 40, 42]]))
put("gguf_header", "scalar", gguf([], [tensor("t", [], 0, 0)]))
put("gguf_header", "alignment", gguf([key("general.alignment", 10, 1 << 20)], [tensor("t", [1], 0, 1 << 20)], 1 << 22))
put("gguf_header", "alignment3", gguf([key("general.alignment", 4, 3)], []))
put("gguf_header", "cut", gguf(model, infos, 1200))
put("gguf_header", "twice", gguf([key("k", 0, 1), key("k", 1, 1)], []))
put("gguf_header", "far", gguf([], [tensor("t", [1], 0, 2**64 - 32)]))
put("gguf_header", "wide", gguf([], [tensor("t", [1 << 40, 1 << 40], 0, 0)]))
put("gguf_header", "deep", gguf([key("k", 9, (9, [(9, [(9, [(9, [(9, [])])])])]))], []))
put("gguf_header", "many", gguf([], [], 1 << 34, counts=(1 << 20, 1 << 14)))
put("gguf_header", "array", gguf([text("k") + struct.pack("<IIQ", 9, 0, 16 << 20)], [], 1 << 34, counts=(0, 1)))
put("gguf_header", "strings", gguf([text("k") + struct.pack("<IIQ", 9, 8, 16 << 20)], [], 1 << 34, counts=(0, 1)))
put("gguf_header", "text", gguf([text("k") + struct.pack("<IQ", 8, 64 << 20)], [], 1 << 34, counts=(0, 1)))
put("gguf_header", "bigendian", struct.pack("<Q", 64) + b"GGUF" + struct.pack(">IQQ", 3, 0, 0))
put("gguf_header", "zip", struct.pack("<Q", 64) + b"PK\x03\x04")


# --- config.json --------------------------------------------------------------------------------------------------------

config = json.loads((MODEL / "config.json").read_text())
sizes = {key: config[key] for key in (
    "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "vocab_size")}
put("config_json", "tiny.json", dump(config))
variants = {
    "llama3": {"model_type": "llama", "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}},
    "yarn": {"model_type": "qwen2", "rope_scaling": {
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768.0, "extrapolation_factor": 1.0,
        "attention_factor": 1.0, "attn_factor": 1.0, "beta_fast": 32, "beta_slow": 1}},
    "linear": {"model_type": "mistral", "rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 1e6}},
    "longrope": {"model_type": "phi3", "partial_rotary_factor": 0.5, "original_max_position_embeddings": 4096,
                 "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1], "long_factor": [2, 4.5]}},
    "dynamic": {"model_type": "llama", "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "gemma3": {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": {
        "model_type": "gemma3_text", "hidden_size": 8, "rope_local_base_freq": 1e4, "sliding_window": 512}},
    "layered": {"model_type": "gemma3_text", "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 1.0},
        "sliding_attention": {"rope_theta": 1e4}}},
    "qwen3": {"model_type": "qwen3", "head_dim": 128, "dtype": "bfloat16", "num_key_value_heads": None},
    "classes": {"model_type": "qwen3_moe", "model_types": ["gemma2", "gpt_oss", "phi3", "mixtral", "qwen2_moe"]},
    "quantized": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
}
for name, change in variants.items():
    put("config_json", name + ".json", dump({**sizes, **change}))
put("config_json", "wrong.json", dump({
    "architectures": [], "num_hidden_layers": 0, "hidden_size": -1, "vocab_size": 1.5, "num_attention_heads": "four",
    "intermediate_size": 1 << 40, "head_dim": {}, "rms_norm_eps": "1e-6", "rope_scaling": {"type": "yarn", "factor": 0}}))
put("config_json", "array.json", "[]")
put("config_json", "cut.json", dump(config)[:200])
put("config_json", "deep.json", '{"a":' + "[" * 130)


# --- model.safetensors.index.json, for the shards that the target makes ------------------------------------------------

def index(*pairs, **more):
    return dump({**more, "weight_map": dict(pairs)})


first, second = "1.safetensors", "2.safetensors"
put("weight_index", "whole.json", index(("a", first), ("b", first), ("c", second), metadata={"total_size": 3}))
put("weight_index", "one.json", index(("a", first), ("b", first)))
put("weight_index", "other.json", index(("c", second)))
put("weight_index", "promised.json", index(("a", first), ("b", first), ("d", first)))
put("weight_index", "unlisted.json", index(("a", first)))
put("weight_index", "missing.json", index(("a", first), ("b", "3.safetensors")))
put("weight_index", "swapped.json", index(("a", second), ("b", first), ("c", first)))
for name, shard in {"above": "../x", "root": "/x", "windows": "..\\x", "dots": "..", "dot": ".", "nul": "x\0y", "none": ""}.items():
    put("weight_index", name + ".json", index(("a", shard)))
put("weight_index", "list.json", '{"weight_map":[]}')
put("weight_index", "number.json", '{"weight_map":{"a":1}}')
put("weight_index", "bare.json", "{}")
put("weight_index", "cut.json", '{"weight_map":{"a":"1.saf')


# --- tokenizer.json and tokenizer_config.json ---------------------------------------------------------------------------

tokenizer = json.loads((MODEL / "tokenizer.json").read_text())
settings = json.loads((MODEL / "tokenizer_config.json").read_text())
letters = list("abcdehlo") + ["Ġ"]
tokenizer["model"]["vocab"] = {token: id for id, token in enumerate(letters + ["he", "ll", "hell", "Ġa"])}
tokenizer["model"]["merges"] = [["h", "e"], ["l", "l"], ["he", "ll"], ["Ġ", "a"]]
for id, token in enumerate(tokenizer["added_tokens"], 13):
    token["id"] = id
settings["added_tokens_decoder"] = {
    str(id): token for id, token in enumerate(settings["added_tokens_decoder"].values(), 13)}
settings["chat_template"] = "{{ messages }}"
special = {"id": 1, "content": "</s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
           "special": True}


def variant(name, config=None, **change):
    changed = {**copy.deepcopy(tokenizer), **change}
    put("tokenizer_json", name, dump(changed) + ("" if config is None else "\0" + dump(config)))


def without_vocabulary(name, **change):
    """A tokenizer that consists of the step to be seen, so that the input stays short."""
    bare = {"type": "BPE", "vocab": {"a": 0, "</s>": 1}, "merges": []}
    variant(name, **{**dict.fromkeys(tokenizer), "added_tokens": [special], "model": bare, **change})


variant("tiny", settings)
variant("old_merges", model={**tokenizer["model"], "merges": ["h e", "l l", "he ll"]})
variant("other_roles", {"bos_token": {"content": "<s>"}, "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": 1,
                        "add_bos_token": True, "add_eos_token": None, "added_tokens_decoder": {"99": {"content": "x"}}})
variant("wrong_id", model={**tokenizer["model"], "vocab": {"a": -1}})
variant("wrong_merge", model={**tokenizer["model"], "merges": [["a"]]})
variant("unknown_merge", model={**tokenizer["model"], "merges": [["x", "y"]]})
variant("wrong_decoder", {"added_tokens_decoder": {"x": {}}})
variant("cut", None)
put("tokenizer_json", "cut", dump(tokenizer)[:300])
put("tokenizer_json", "bare", '{"model":{"vocab":{}}}')
without_vocabulary("bpe", model={
    "type": "BPE", "dropout": 0.5, "unk_token": "</s>", "continuing_subword_prefix": "##", "end_of_word_suffix": "</w>",
    "fuse_unk": True, "byte_fallback": True, "ignore_merges": True, "vocab": {"a": 0, "</s>": 1, "##a": 2, "aa": 3},
    "merges": [["a", "##a"]]})
without_vocabulary("wordpiece", model={
    "type": "WordPiece", "unk_token": "</s>", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
    "vocab": {"a": 0, "</s>": 1, "##a": 2}})
without_vocabulary("wordlevel", model={"type": "WordLevel", "vocab": {"a": 0, "</s>": 1}, "unk_token": "</s>"})
without_vocabulary("unigram", model={
    "type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["</s>", 0.0], ["▁a", -1.5]], "byte_fallback": False})
replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
without_vocabulary("sentencepiece", normalizer={"type": "Sequence", "normalizers": [
    {"type": "Prepend", "prepend": "▁"}, replace]}, decoder={"type": "Sequence", "decoders": [
        {**replace, "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})
without_vocabulary("normalizers", normalizer={"type": "Sequence", "normalizers": [
    {"type": "NFC"}, {"type": "NFKD"}, {"type": "Lowercase"}, {"type": "StripAccents"}, {"type": "Nmt"}, {"type": "ByteLevel"},
    {"type": "Strip", "strip_left": True, "strip_right": True}, {**replace, "pattern": {"Regex": "\\s+|a{2,3}"}},
    {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}]})
without_vocabulary("precompiled", normalizer={
    "type": "Precompiled", "precompiled_charsmap": "DAAAAAAEAAAABAAAAAAAAGEAYgA="})
without_vocabulary("precompiled_nothing", normalizer={"type": "Precompiled"})
without_vocabulary("precompiled_claim", normalizer={"type": "Precompiled", "precompiled_charsmap": "/P///wAA"})
without_vocabulary("pre_tokenizers", pre_tokenizer={"type": "Sequence", "pretokenizers": [
    {"type": "BertPreTokenizer"}, {"type": "Whitespace"}, {"type": "WhitespaceSplit"}, {"type": "UnicodeScripts"},
    {"type": "Digits", "individual_digits": True}, {"type": "CharDelimiterSplit", "delimiter": "x"},
    {"type": "Punctuation", "behavior": "Isolated"}, {"type": "FixedLength", "length": 5},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
    {"type": "Split", "pattern": {"Regex": "(?i:'s)|\\p{L}+|(?!\\S)"}, "behavior": "MergedWithNext", "invert": True}]})
template = {"type": "TemplateProcessing", "single": [
    {"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [
        {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 1}},
        {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}}
without_vocabulary("template", post_processor={"type": "Sequence", "processors": [
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}, template]})
without_vocabulary("bert", post_processor={"type": "BertProcessing", "sep": ["</s>", 1], "cls": ["a", 0]}, decoder={
    "type": "WordPiece", "prefix": "##", "cleanup": True})
without_vocabulary("roberta", post_processor={
    "type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["a", 0], "trim_offsets": True, "add_prefix_space": False})
without_vocabulary("cut_and_filled", truncation={
    "direction": "Right", "max_length": 512, "strategy": "LongestFirst", "stride": 0}, padding={
        "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": 8, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"})


# --- tokenizer.model ----------------------------------------------------------------------------------------------------

def varint(number):
    out = b""
    number &= (1 << 64) - 1
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(tag, data):
    if isinstance(data, int):
        return varint(tag << 3) + varint(data)
    if isinstance(data, float):
        return varint(tag << 3 | 5) + struct.pack("<f", data)
    return varint(tag << 3 | 2) + varint(len(data)) + data


def sentencepiece(pieces, model_type=2, prefix=None):
    out = b"".join(field(1, field(1, text.encode()) + field(2, score) + field(3, kind)) for text, score, kind in pieces)
    if model_type is not None:
        out += field(2, field(3, model_type) + field(4, 1000))
    return out if prefix is None else out + field(3, field(1, b"identity") + field(3, int(prefix)))


control = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
words = [("▁", -5.0, 1), ("a", -6.0, 1), ("b", -7.0, 1), ("ab", -0.0, 1), ("▁ab", -1.0, 1), ("ba", -2.0, 1)]
put("sentencepiece_model", "words", sentencepiece(control + words, prefix=True))
put("sentencepiece_model", "plain", sentencepiece(control + words, prefix=False))
put("sentencepiece_model", "bytes", sentencepiece(
    control + [("<0x00>", 0.0, 6), ("<0xFF>", 0.0, 6), ("<x>", 0.0, 4), ("<y>", 0.0, 5)] + words))
put("sentencepiece_model", "same", sentencepiece(control + [("a", -1.0, 1), ("a", -2.0, 1), ("aa", -3.0, 1)]))
put("sentencepiece_model", "unigram", sentencepiece(control + words, 1))
put("sentencepiece_model", "untyped", sentencepiece(control + words, None))
put("sentencepiece_model", "empty_piece", sentencepiece([("", 0.0, 1)]))
put("sentencepiece_model", "odd_kind", sentencepiece([("a", 0.0, 9)]))
put("sentencepiece_model", "odd_score", sentencepiece([("a", float("nan"), 1)]))
put("sentencepiece_model", "long", sentencepiece([("a" * length, -1.0 * length, 1) for length in range(1, 40)]))
put("sentencepiece_model", "cut", sentencepiece(control + words)[:40])
put("sentencepiece_model", "empty", b"")

# --- plugins: the manifest's section, a library around it, and the frames of the worker protocol ------------------------

MANIFEST = """name = '''gguf-cpu'''
version = '''0.1.0'''
description = '''llama.cpp on the CPU'''
api_version = '''1.2.0'''
minimum_host_api = '''1.0.0'''
target = '''x86_64-unknown-linux-gnu'''
formats = '''gguf, huggingface'''
cpu_features = '''avx2,fma'''
"""
section = b"pajamas-plugin-1" + MANIFEST.encode()
put("plugin_manifest", "whole", section)
put("plugin_manifest", "padded", section + bytes(9))
put("plugin_manifest", "newer", section.replace(b"1.2.0", b"2.0.0-rc.1+x"))
put("plugin_manifest", "short", b"pajamas-plugin-1name = 'x'\nversion = '1.0.0'\napi_version = '1.0.0'\n"
    b"minimum_host_api = '1.0.0'\ntarget = 't'\n")
put("plugin_manifest", "magic", b"pajamas-plugin-1")
put("plugin_manifest", "other_magic", b"pajamas-plugin-2" + MANIFEST.encode())
put("plugin_manifest", "empty", b"")


def elf(machine=62, kind=3, manifest=section, size=None):
    """A shared library of one segment, with the manifest and the name of a library that it needs."""
    strings = b"\0libc.so.6\0"
    names = b"\0.pajamas.manifest\0.dynamic\0.dynstr\0.shstrtab\0"
    dynamic = struct.pack("<QQQQ", 1, 1, 0, 0)
    start = 64 + 56
    parts, offsets = [manifest, dynamic, strings, names], []
    at = start
    for part in parts:
        offsets.append(at)
        at += len(part)
    at += -at % 8
    body = b"".join(parts)
    body += bytes(at - start - len(body))
    name = lambda text: names.index(text + b"\0")
    sections = struct.pack("<IIQQQQIIQQ", *[0] * 10)
    for text, index, kind_, link in [
            (b".pajamas.manifest", 0, 1, 0), (b".dynamic", 1, 6, 3), (b".dynstr", 2, 3, 0), (b".shstrtab", 3, 3, 0)]:
        sections += struct.pack("<IIQQQQIIQQ", name(text), kind_, 2, offsets[index], offsets[index],
                                len(parts[index]) if size is None or index else size, link, 0, 1, 16 if kind_ == 6 else 0)
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", kind, machine, 1, 0, 64, at, 0, 64, 56, 1, 64, 5, 4)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, at, at, 4096)
    return head + segment + body + sections


put("plugin_preflight", "whole", elf())
put("plugin_preflight", "other_machine", elf(machine=183))
put("plugin_preflight", "program", elf(kind=2))
put("plugin_preflight", "no_manifest", elf(manifest=b""))
put("plugin_preflight", "cut", elf()[:700])
put("plugin_preflight", "huge_section", elf(size=1 << 40))
put("plugin_preflight", "script", "/* GNU ld script */\nGROUP ( /lib/libc.so.6 )\n")
put("plugin_preflight", "macho", struct.pack("<IIIIIIII", 0xFEEDFACF, 0x0100000C, 0, 6, 1, 40, 0, 0)
    + struct.pack("<IIIIII", 0xC, 40, 24, 2, 1, 1) + b"libSystem.dylib\0")
put("plugin_preflight", "macho_universal_within_itself",
    struct.pack(">IIIIIII", 0xCAFEBABE, 1, 0x0100000C, 0, 0, 28, 0))
put("plugin_preflight", "pe", b"MZ\x90\0" + bytes(56) + struct.pack("<I", 64) + b"PE\0\0"
    + struct.pack("<HHIIIHH", 0x8664, 0, 0, 0, 0, 240, 0x2022) + struct.pack("<H", 0x20B) + bytes(238))
put("plugin_preflight", "empty", b"")


def pack(value):
    """MessagePack, as much of it as the messages need."""
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return bytes([value]) if 0 <= value < 128 else b"\xd3" + struct.pack(">q", value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, bytes):
        return b"\xc5" + struct.pack(">H", len(value)) + value
    if isinstance(value, str):
        return b"\xda" + struct.pack(">H", len(value.encode())) + value.encode()
    if isinstance(value, list):
        return b"\xdc" + struct.pack(">H", len(value)) + b"".join(map(pack, value))
    pairs = b"".join(pack(key) + pack(item) for key, item in value.items())
    return b"\xde" + struct.pack(">H", len(value)) + pairs


def frames(*messages):
    packed = [message if isinstance(message, bytes) else pack(message) for message in messages]
    return b"".join(struct.pack("<I", len(message)) + message for message in packed)


plugin = {"path": "/p/libx.so", "bundle": None, "parts": [
    {"path": "/p/libx.so", "stamp": {"device": 1, "inode": 2, "size": 3, "modified_ns": 4, "changed_ns": 5}}]}
capabilities = {"hardware": "cpu", "precisions": ["f32"], "formats": ["gguf"], "sampling": ["seed"], "options": [],
                "logits": True, "logprobs": True, "sessions": True, "streaming": True, "batching": False, "score": 0}
report = {"availability": {"available": {"devices": [
    {"name": "CPU", "class": "cpu", "memory_total_bytes": 1, "memory_free_bytes": 1}]}},
    "capabilities": capabilities, "recipes": [], "elapsed_ms": 0.5}
hello = {"hello": {"protocol": 3, "cache_dir": "/c", "thread_budget": 2}}
put("worker_protocol", "probe", frames(hello, {"probe": {"plugin": plugin}}))
put("worker_protocol", "load", frames(hello, {"load": {"plugin": plugin, "request": {"path": "/m.gguf"}}},
                                      {"tokenize": {"text": "a", "add_special": True, "parse_special": False}},
                                      {"logits": {"tokens": [1, 2, 300], "first_row": 1}}, "memory_usage", "cancel"))
put("worker_protocol", "probed", frames({"ready": {"protocol": 3}}, {"log": {"level": 2, "target": "t", "message": "m"}},
                                        {"probed": report}))
put("worker_protocol", "answers", frames({"progress": {"stage": "loading", "fraction": 0.5, "detail": ""}},
                                         {"tokens": [1, 2]}, {"text": b"\xff"}, {"row": [0, bytes(8)]}, "rows_end",
                                         {"failed": {"kind": "other", "message": "no"}}))
put("worker_protocol", "long", struct.pack("<I", 0xFFFFFFFF) + b"x")
put("worker_protocol", "nonsense", frames(b"\xc1\xc1\xc1"))
put("worker_protocol", "deep", frames(b"\x91" * 2000))
put("worker_protocol", "claims", frames(b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"))
put("worker_protocol", "empty", b"")
