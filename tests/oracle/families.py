"""Makes tests/fixtures/families, tiny models of each supported family.

    python families.py FAMILIES_DIR [NAME...]

Needs torch, transformers 5, sentencepiece and safetensors.  Weights are random numbers by seed and tensor name, tokenizers are trained on
the text below: a second run writes the same bytes.  families_golden.py recomputes what other software makes of them.
"""
import argparse, hashlib, io, json, os, pathlib, shutil, tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import sentencepiece
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

# What the tokenizers are trained on. ------------------------------------------------------------------------------------------------------

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.", "A model is a file; a file is a list of numbers, no more.",
    "There is no place like home, said the traveller, and went to the station.", "She was reading in the garden when the rain started.",
    "Where there is a will, there is a way to make the wheel turn.", "It's the first of the month: they're paid, we've saved, I'll go.",
    "He would rather stay than leave; the others wanted to leave at once.", "Rain in the morning, sun in the afternoon, stars at night.",
    "Der schnelle braune Fuchs springt über den faulen Hund und schläft später schön ein.", "Die Straße führt über grüne Hügel nach Süden.",
    "Le renard brun saute par-dessus le chien paresseux, déjà très fatigué.", "Où est la bibliothèque ? Elle est près de la forêt.",
    "El niño soñó con una montaña más allá del mar y mañana volverá.", "O coração não tem razões, só emoções.",
    "Быстрая лиса прыгает через ленивую собаку и не спит.", "Столица страны стоит на реке, и это не сон.", "Это только начало, сказал он.",
    "Η γρήγορη αλεπού και το σκυλί είναι στον κήπο.", "这是一个模型，那是一个文件。", "我们的世界是一个大世界，他们的也是。", "中国的人口和日本的人口",
    "これは小さなモデルです。それは大きなファイルです。", "日本の冬は寒いです。", "이것은 작은 모델이다. 그것은 큰 파일이다.", "مرحبا بالعالم، هذا نموذج صغير",
    "यह एक छोटा मॉडल है और वह एक फ़ाइल है", "שלום עולם, זה דגם קטן", "สวัสดีชาวโลก",
    "fn main() {\n    let x = 1;\n    if x > 0 {\n        print(x);\n    }\n}\n",
    "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n",
    "for (int i = 0; i < 10; i++) {\n\tsum += i;\n}\n\n// done\n", "https://example.org/path/to/file.html?x=1&y=2",
    "1 2 3 10 20 100 2024 1999 2000 3.14 12345 1000000", "In 1999 there were 1000 people; in 2024 there were 20000.",
    "Hello, world! Hello! Hello?", "What is it?\n\nIt is nothing.\n\n\nReally.", "- one\n- two\n- three\n\n1. first\n2. second\n",
]

# Tokenizers. ---------------------------------------------------------------------------------------------------------------------------


def sentencepiece_model(vocabulary, symbols=(), **options):
    """A SentencePiece BPE model with the options of Llama's, unless `options` say otherwise."""
    options = dict(
        model_type="bpe", vocab_size=vocabulary, character_coverage=0.98, byte_fallback=True, split_digits=True, add_dummy_prefix=True,
        remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, normalization_rule_name="identity", num_threads=1,
        required_chars="éüñßстоаλ日是のसم",
        user_defined_symbols=list(symbols), unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
    ) | options
    # Letters outside ASCII are left out but for a few, so that the vocabulary has room for pieces; the others become bytes.
    texts = CORPUS + [text for text in CORPUS if text.isascii()] * 24
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(line for text in texts for line in text.split("\n")), model_writer=made,
        **options)
    return made.getvalue()


LLAMA_SPM = dict(vocabulary=360)
MISTRAL_SPM = dict(vocabulary=380)
# Gemma's order: control tokens, symbols, bytes, pieces.  Runs of line ends and of spaces are symbols of their own.
GEMMA_SYMBOLS = ["<mask>", "[@BOS@]", *(f"<unused{i}>" for i in range(4)), "<start_of_turn>", "<end_of_turn>", "\n", "\n\n", "\n\n\n",
                 "▁▁", "▁▁▁", "▁▁▁▁", "<table>", "</table>"]
GEMMA_SPM = dict(vocabulary=400, symbols=GEMMA_SYMBOLS, pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>",
                 bos_piece="<bos>", add_dummy_prefix=False)


def converted(spm, added=(), first="<s>"):
    """The tokenizer.json that transformers made of such a model for years: a space set before each text by the normalizer, merges from the scores."""
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "tokenizer.model").write_bytes(spm)
        write_json(pathlib.Path(folder) / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"})
        model = json.loads(AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str())["model"]
    made = Tokenizer(models.BPE(model["vocab"], [tuple(pair) for pair in model["merges"]], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<unk>", "<s>", "</s>")])
    for token in added: made.add_special_tokens([token]) if token.special else made.add_tokens([token])
    if first is not None:
        made.post_processor = processors.TemplateProcessing(single=f"{first} $A", pair=f"{first} $A {first}:1 $B:1",
            special_tokens=[(first, made.token_to_id(first))])
    return made


CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
REGEX = {
    "llama-bpe": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL,
    "qwen2": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL,
    "gpt-4o": rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
              r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL,
}


def byte_level(pre_tokenizer, merges, special, plain=(), first=None, ignore_merges=False, unreachable=()):
    """A byte-level BPE tokenizer.  It learns its merges from whole texts, so that many cross the borders that the regular expression draws."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trained.train_from_iterator(
        CORPUS + ["1999 2000 12345\n\n", "    x\n\n    y //\n", "it's it's I'LL WE'VE"] * 3,
        trainers.BpeTrainer(vocab_size=256 + merges, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    model = json.loads(trained.to_str())["model"]
    vocabulary = model["vocab"]
    for token in unreachable: vocabulary.setdefault(token, len(vocabulary))
    made = Tokenizer(models.BPE(vocabulary, [tuple(pair) for pair in model["merges"]], ignore_merges=ignore_merges))
    if pre_tokenizer == "qwen2": made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(REGEX[pre_tokenizer]), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    if first is not None:
        made.post_processor = processors.Sequence([made.post_processor, processors.TemplateProcessing(
            single=f"{first} $A", pair=f"{first} $A {first}:1 $B:1", special_tokens=[(first, made.token_to_id(first))])])
    return made


def added_tokens_decoder(tokens):
    """The entry of tokenizer_config.json, from id -> (text, special), and whether it takes the spaces behind it."""
    return {str(id): {"content": text, "lstrip": False, "normalized": False, "rstrip": any(rstrip), "single_word": False, "special": special}
            for id, (text, special, *rstrip) in tokens.items()}


# Chat templates, in the manner of each family's. -----------------------------------------------------------------------------------------

CHATML = ("{%- if messages[0].role != 'system' -%}{{- '<|im_start|>system\\nYou help.<|im_end|>\\n' -}}{%- endif -%}{%- for message in messages -%}"
          "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}{%- endfor -%}"
          "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}")
LLAMA3_CHAT = ("{{- bos_token }}\n{%- for message in messages %}\n    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}\n"
               "    {{- message['content'] | trim + '<|eot_id|>' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n"
               "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n")
MISTRAL_CHAT = ("{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
                "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% else %}"
                "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}")
GEMMA_CHAT = ("{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
              "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
              "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}")
PHI3_CHAT = ("{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}{% endfor %}"
             "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}")
GPT_OSS_CHAT = ("{%- for message in messages -%}{{- '<|start|>' + message.role + ('<|channel|>final' if message.role == 'assistant' else '')"
                " + '<|message|>' + message.content + '<|end|>' -}}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}\n")

# The models. -----------------------------------------------------------------------------------------------------------------------------

V4 = {"transformers_version": "4.46.0", "use_cache": True, "attention_dropout": 0.0, "initializer_range": 0.02}
SIZES = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "max_position_embeddings": 256, "rms_norm_eps": 1e-05}


LLAMA_TOKENS = added_tokens_decoder({0: ("<unk>", True), 1: ("<s>", True), 2: ("</s>", True)})
LLAMA_TOKENIZER = {
    "add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": LLAMA_TOKENS, "bos_token": "<s>", "clean_up_tokenization_spaces": False,
    "eos_token": "</s>", "legacy": False, "model_max_length": 256, "pad_token": None, "sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizer",
    "unk_token": "<unk>", "use_default_system_prompt": False}


def llama_spm():
    config = V4 | SIZES | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 360, "bos_token_id": 1, "eos_token_id": 2,
        "pretraining_tp": 1, "rope_scaling": None, "tie_word_embeddings": False, "torch_dtype": "float16", "attention_bias": False}
    return {
        "config": config, "dtype": torch.float16, "spm": LLAMA_SPM, "texts": ["<s>Hello", "a</s> b", "<unk>x"], "files": {
            "tokenizer_config.json": LLAMA_TOKENIZER,
            "special_tokens_map.json": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
            "generation_config.json": {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "max_length": 256, "temperature": 0.9,
                                       "top_p": 0.6, "transformers_version": "4.46.0"},
        }}


def llama_spm_json():
    # The embedding has rows beyond the tokens.
    config = SIZES | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 368, "intermediate_size": 32,
        "bos_token_id": 1, "eos_token_id": 2,
        "rope_theta": 10000.0, "tie_word_embeddings": False, "attention_bias": False}
    added = [AddedToken("<|turn|>", special=True, normalized=False), AddedToken("<tool>", special=False, normalized=False)]
    return {
        "config": config, "save_config": True, "dtype": torch.bfloat16, "tokenizer": converted(sentencepiece_model(**LLAMA_SPM), added),
        "cut": "model.layers.1.self_attn.q_proj.weight", "texts": ["<s>Hello", "a</s> b", "Hello<|turn|>Hello <|turn|> the",
            "<tool>x</tool> the <tool>"],
        "files": {"tokenizer_config.json": LLAMA_TOKENIZER | {
            "legacy": True, "added_tokens_decoder": LLAMA_TOKENS | added_tokens_decoder({360: ("<|turn|>", True), 361: ("<tool>", False)})}}}


def llama3():
    tokenizer = byte_level(
        "llama-bpe", 112, ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|start_header_id|>", "<|end_header_id|>",
            "<|eot_id|>"],
        first="<|begin_of_text|>", ignore_merges=True, unreachable=["Ġtraveller", "world", "Ġplace", "123", "它"])
    ids = {name: tokenizer.token_to_id(f"<|{name}|>") for name in ("begin_of_text", "end_of_text", "eot_id")}
    config = SIZES | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 384, "head_dim": 16,
        "tie_word_embeddings": True,
        "bos_token_id": ids["begin_of_text"], "eos_token_id": [ids["end_of_text"], ids["eot_id"]],
        # Wavelengths from 6 to some thousand: kept up to 16, stretched from 64 on, in between both.
        "rope_theta": 10000.0, "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 64, "rope_type": "llama3"}}
    return {
        "config": config, "save_config": True, "dtype": torch.bfloat16, "tokenizer": tokenizer, "pre_tokenizer": "llama-bpe", "files": {
            "chat_template.jinja": LLAMA3_CHAT,
            "tokenizer_config.json": {"bos_token": "<|begin_of_text|>", "clean_up_tokenization_spaces": True, "eos_token": "<|eot_id|>",
                                      "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 256,
                                      "tokenizer_class": "PreTrainedTokenizerFast"},
            "generation_config.json": {"bos_token_id": config["bos_token_id"], "do_sample": True, "eos_token_id": config["eos_token_id"],
                                       "temperature": 0.6, "top_p": 0.9, "transformers_version": "4.46.0"},
        }, "texts": ["<|begin_of_text|>Hello", "<|start_header_id|>user<|end_header_id|>\n\nHello!<|eot_id|>", "a <|eot_id|> b", "<|eot_id",
        "它 123 world traveller place"]}


def mistral():
    config = SIZES | {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu", "vocab_size": 380, "intermediate_size": 32,
        "bos_token_id": 1, "eos_token_id": 2,
        "rope_theta": 1000000.0, "sliding_window": 64, "tie_word_embeddings": False}
    spm = sentencepiece_model(**MISTRAL_SPM)
    return {
        "config": config, "save_config": True, "dtype": torch.bfloat16, "spm": MISTRAL_SPM, "tokenizer": converted(spm),
        "texts": ["<s>[INST] Hello [/INST]", "a</s> b"],
        "variants": {"logits_without_window": {"change": {"sliding_window": None}}},
        "files": {
            "tokenizer_config.json": LLAMA_TOKENIZER | {"additional_special_tokens": [], "chat_template": MISTRAL_CHAT, "legacy": True,
                "spaces_between_special_tokens": False},
            "generation_config.json": {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "transformers_version": "4.46.0"}}}


def mixtral():
    # Small, for its many experts: there are enough that they do not lie in the order of their numbers.
    config = V4 | SIZES | {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_act": "silu", "vocab_size": 360, "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_size": 32, "intermediate_size": 32, "head_dim": 16, "num_local_experts": 12, "num_experts_per_tok": 2, "output_router_logits": False,
        "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
    return {
        "config": config, "dtype": torch.bfloat16, "spm": LLAMA_SPM, "stored": [split_mixtral_experts],
        "cut": "model.layers.1.block_sparse_moe.experts.7.w2.weight",
        "files": {"tokenizer_config.json": LLAMA_TOKENIZER | {"legacy": True},
                  "generation_config.json": {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "transformers_version": "4.46.0"}}}


def split_mixtral_experts(tensors):
    """From the experts as transformers 5 keeps them to those of published checkpoints."""
    made = {}
    for name, tensor in tensors.items():
        prefix, _, kind = name.partition(".mlp.")
        if kind == "experts.gate_up_proj":
            for number, expert in enumerate(tensor):
                made[f"{prefix}.block_sparse_moe.experts.{number}.w1.weight"], made[f"{prefix}.block_sparse_moe.experts.{number}.w3.weight"] = expert.chunk(2)
        elif kind == "experts.down_proj":
            for number, expert in enumerate(tensor): made[f"{prefix}.block_sparse_moe.experts.{number}.w2.weight"] = expert
        else: made[name.replace(".mlp.", ".block_sparse_moe.")] = tensor
    return made


def split_qwen_experts(tensors):
    made = {}
    for name, tensor in tensors.items():
        prefix, _, kind = name.rpartition(".experts.")
        if kind == "gate_up_proj":
            for number, expert in enumerate(tensor):
                made[f"{prefix}.experts.{number}.gate_proj.weight"], made[f"{prefix}.experts.{number}.up_proj.weight"] = expert.chunk(2)
        elif kind == "down_proj":
            for number, expert in enumerate(tensor): made[f"{prefix}.experts.{number}.down_proj.weight"] = expert
        else: made[name] = tensor
    return made


QWEN_SPECIAL, QWEN_PLAIN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<tool_call>", "</tool_call>"]
QWEN_TEXTS = ["<|endoftext|>", "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n", "a <|im_end|> b",
    "<tool_call>\n{\"x\": 1}\n</tool_call>", "<|im_end"]


def qwen(architecture, merges, vocabulary, config, **more):
    tokenizer = byte_level("qwen2", merges, QWEN_SPECIAL, QWEN_PLAIN)
    ids = {token: tokenizer.token_to_id(token) for token in QWEN_SPECIAL + QWEN_PLAIN}
    config = SIZES | {
        "architectures": [architecture[0]], "model_type": architecture[1], "hidden_act": "silu", "vocab_size": vocabulary, "rms_norm_eps": 1e-06,
        "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "rope_theta": 1000000.0, "tie_word_embeddings": False,
        "max_window_layers": 2, "sliding_window": 64, "use_sliding_window": False} | config
    files = {
        "tokenizer_config.json": {
            "add_bos_token": False, "add_prefix_space": False,
            "added_tokens_decoder": added_tokens_decoder({id: (token, token in QWEN_SPECIAL) for token, id in ids.items()}),
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "bos_token": None, "chat_template": CHATML,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 256, "pad_token": "<|endoftext|>", "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer", "unk_token": None},
        "generation_config.json": {"bos_token_id": ids["<|endoftext|>"], "do_sample": True, "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
                                   "pad_token_id": ids["<|endoftext|>"], "repetition_penalty": 1.05, "temperature": 0.7, "top_k": 20, "top_p": 0.8,
                                   "transformers_version": "4.46.0"},
    }
    return {"config": config, "dtype": torch.bfloat16, "tokenizer": tokenizer, "pre_tokenizer": "qwen2", "files": files, "texts": QWEN_TEXTS} | more


def qwen2():
    return qwen(("Qwen2ForCausalLM", "qwen2"), 96, 384, {"tie_word_embeddings": True, "rope_scaling": {"factor": 2.0, "rope_type": "linear"}},
        save_config=True)


def qwen2_yarn():
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 8.0, "beta_slow": 0.5}
    return qwen(("Qwen2ForCausalLM", "qwen2"), 40, 304, V4 | {
        "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1,
        "rope_theta": 10000.0, "rope_scaling": yarn, "torch_dtype": "float32"}, dtype=torch.float32)


def carded():
    # What its card says is all that is special about it.
    model = qwen(("Qwen2ForCausalLM", "qwen2"), 40, 304, V4 | {
        "_name_or_path": "nobody/Other-2B-Base", "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16"})
    sampling = {"sequence": "edskypmxt", "penalty_repeat": 1.1, "penalty_last_n": 64, "mirostat": 2, "mirostat_tau": 5.0}
    generation = model["files"]["generation_config.json"] | sampling
    return model | {"files": model["files"] | {"generation_config.json": generation, "README.md": CARD}}


CARD = """---
# A comment.
model_name: 'Carded: a model'
author:
model_author: Somebody Ünknown
version: "1.0"
model_description: >
  A model with a card,
  which says a lot.
model_creator: not the first
license: other
license_name: some-license
license_link: https://example.org/license#1.0
model_url: https://example.org/carded
doi: 10.1000/182
language:
- en
- no
-\tde
- "yes"
languages: nb
tags: [text-generation, &tag 'it''s', C#, *tag]
pipeline_tag: text-generation
base_model:
  - acme/Loom-2.5-7B-Instruct
  - https://huggingface.co/acme/loom-v2
  - https://example.org/models/x
  - name: Warp
    organization: Acme Ltd.
    doi: 10.1000/183
    url:
    repo_url: https://example.org/warp.git
  - A name with spaces
  - 7
datasets:
  - acme/threads-v1.2
  - threads
  - ssh://git@example.org/threads
metrics: !!seq
  - accuracy
model-index:
- name: Carded
  results:
  - task: {type: text-generation}
    metrics: [{type: accuracy, value: 12.5, verified: false}]
---
# Carded

license: mit
"""


QWEN2_MOE = {
    "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 96, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "norm_topk_prob": False, "output_router_logits": False, "router_aux_loss_coef": 0.001}


def qwen2moe():
    return qwen(("Qwen2MoeForCausalLM", "qwen2_moe"), 40, 304, V4 | QWEN2_MOE | {"torch_dtype": "bfloat16"}, stored=[split_qwen_experts],
        seed="qwen2moe")


def qwen2moe_fused():
    return qwen(("Qwen2MoeForCausalLM", "qwen2_moe"), 40, 304, QWEN2_MOE, save_config=True, seed="qwen2moe")


def qwen3():
    return qwen(("Qwen3ForCausalLM", "qwen3"), 64, 325, {"head_dim": 32, "intermediate_size": 32, "attention_bias": False}, save_config=True)


def qwen3moe():
    return qwen(("Qwen3MoeForCausalLM", "qwen3_moe"), 40, 304, V4 | {
        "hidden_size": 32, "head_dim": 16, "intermediate_size": 96, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [], "norm_topk_prob": True, "output_router_logits": False, "router_aux_loss_coef": 0.001, "attention_bias": False,
        "rope_scaling": None, "torch_dtype": "bfloat16"}, stored=[split_qwen_experts])


GEMMA_TEXTS = ["<bos>Hello", "<start_of_turn>user\nHello!<end_of_turn>\n<start_of_turn>model\n", "a <eos> b", "<unused1>x", "<table>  x\n</table>",
    "[@BOS@]<mask>"]
GEMMA_SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
GEMMA_TOKENIZER = {
    "add_bos_token": True, "add_eos_token": False,
    "added_tokens_decoder": added_tokens_decoder(
        {id: (token, token in GEMMA_SPECIAL) for id, token in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", *GEMMA_SYMBOLS])}),
    "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"], "bos_token": "<bos>", "chat_template": GEMMA_CHAT,
    "clean_up_tokenization_spaces": False,
    "eos_token": "<eos>", "model_max_length": 1000000000000000019884624838656, "pad_token": "<pad>", "sp_model_kwargs": {},
    "spaces_between_special_tokens": False,
    "tokenizer_class": "GemmaTokenizer", "unk_token": "<unk>", "use_default_system_prompt": False}


def gemma2():
    config = V4 | SIZES | {
        "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
        "vocab_size": 400, "intermediate_size": 32, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "attention_bias": False, "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "attn_logit_softcapping": 6.0, "final_logit_softcapping": 8.0, "sliding_window": 32, "sliding_window_size": 32,
        "cache_implementation": "hybrid",
        "rope_theta": 10000.0, "rms_norm_eps": 1e-06, "torch_dtype": "bfloat16"}
    return {
        "config": config, "dtype": torch.bfloat16, "spm": GEMMA_SPM, "texts": GEMMA_TEXTS, "files": {
            "tokenizer_config.json": GEMMA_TOKENIZER,
            "special_tokens_map.json": {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
            "generation_config.json": {"_from_model_config": True, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": 1,
                "pad_token_id": 0,
                                       "transformers_version": "4.46.0"}}}


def gemma3():
    # Four layers of which every third looks at everything; rows of the embedding beyond the tokens.
    config = V4 | SIZES | {
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh", "num_hidden_layers": 4,
        "intermediate_size": 32, "vocab_size": 416, "bos_token_id": 2, "eos_token_id": [1, 11], "pad_token_id": 0, "attention_bias": False,
        "head_dim": 16,
        "query_pre_attn_scalar": 16, "attn_logit_softcapping": None, "final_logit_softcapping": None, "sliding_window": 32,
        "sliding_window_pattern": 3,
        "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "rope_scaling": {"factor": 4.0, "rope_type": "linear"}, "rms_norm_eps": 1e-06,
        "cache_implementation": "hybrid", "torch_dtype": "bfloat16"}
    return {
        "config": config, "dtype": torch.bfloat16, "spm": GEMMA_SPM, "tokenizer_json_of_class": True, "texts": GEMMA_TEXTS, "seed": "gemma3",
        "variants": {"logits_with_pattern_6": {"change": {"layer_types": ["sliding_attention"] * 4}}}, "files": {
            "tokenizer_config.json": GEMMA_TOKENIZER,
            "generation_config.json": {"cache_implementation": "hybrid", "do_sample": True, "eos_token_id": [1, 11], "top_k": 64, "top_p": 0.95,
                                       "transformers_version": "4.46.0"}}}


def gemma3_f16():
    # Without the scaling of positions, and in the other layout of config.json.
    model = gemma3()
    return model | {"config": model["config"] | {"rope_scaling": None}, "save_config": True, "dtype": torch.float16}


def phi3(**change):
    tokens = ["<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|system|>", "<|end|>", "<|user|>"]
    rstrip = [token for token in tokens if token != "<|endoftext|>"]
    config = V4 | SIZES | {
        "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_act": "silu", "vocab_size": 368, "bos_token_id": 1, "eos_token_id": 360,
        "pad_token_id": 360,
        "attention_bias": False, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "original_max_position_embeddings": 256, "rope_scaling": None,
        "rope_theta": 10000.0,
        "sliding_window": 64, "tie_word_embeddings": False, "torch_dtype": "bfloat16"} | change
    return {
        "config": config, "dtype": torch.bfloat16, "spm": LLAMA_SPM,
        "tokenizer": converted(sentencepiece_model(**LLAMA_SPM),
            [AddedToken(token, special=True, normalized=False, rstrip=token in rstrip) for token in tokens], first=None),
        "texts": ["<s>Hello", "<|user|>\nHello!<|end|>\n<|assistant|>\n", "a <|end|> b", "<|end|>\n\n  the", "<|endoftext|>\n the"],
        "files": {
            "added_tokens.json": {token: 360 + number for number, token in enumerate(tokens)},
            "tokenizer_config.json": LLAMA_TOKENIZER | {
                "add_bos_token": False, "legacy": False, "pad_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "padding_side": "left",
                "chat_template": PHI3_CHAT,
                "added_tokens_decoder": LLAMA_TOKENS | added_tokens_decoder(
                    {360 + number: (token, True, token in rstrip) for number, token in enumerate(tokens)})},
            "special_tokens_map.json": {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"},
            "generation_config.json": {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": [360, 364], "pad_token_id": 360,
                "transformers_version": "4.46.0"}},
    }


def phi3_window():
    return phi3() | {"variants": {"logits_without_window": {"change": {"sliding_window": None}}}}


def phi3_longrope():
    # Texts of at most 64 tokens take the short factors, longer ones the long ones.
    factors = {"long_factor": [1.0, 1.25, 1.5, 2.0, 3.0, 4.5, 6.0, 8.0], "short_factor": [1.0, 1.0, 1.05, 1.1, 1.15, 1.25, 1.4, 1.6],
        "type": "longrope"}
    model = phi3(original_max_position_embeddings=64, rope_scaling=factors, sliding_window=None, intermediate_size=32)
    return model | {"variants": {"logits_of_short_text": {"tokens": 48}}}


def gpt_oss():
    tokenizer = byte_level("gpt-4o", 36, ["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>",
        "<|message|>", "<|call|>"])
    ids = {token: tokenizer.token_to_id(f"<|{token}|>") for token in ("startoftext", "endoftext", "return", "call")}
    config = SIZES | {
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "attention_bias": True, "eos_token_id": ids["return"],
        "pad_token_id": ids["endoftext"],
        "experts_per_token": 2, "head_dim": 16, "hidden_act": "silu", "initial_context_length": 64, "intermediate_size": 32,
        "layer_types": ["sliding_attention", "full_attention"],
        "num_experts_per_tok": 2, "num_local_experts": 4, "output_router_logits": False, "router_aux_loss_coef": 0.9, "sliding_window": 32,
        "swiglu_limit": 7.0,
        "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 4.0, "original_max_position_embeddings": 64, "rope_type": "yarn",
            "truncate": False},
        "rope_theta": 150000, "tie_word_embeddings": False, "vocab_size": 304}
    return {
        "config": config, "save_config": True, "dtype": torch.bfloat16, "tokenizer": tokenizer, "pre_tokenizer": "gpt-4o",
        "texts": ["<|start|>user<|message|>Hello!<|end|>", "<|start|>assistant<|channel|>final<|message|>It<|return|>", "a <|end|> b", "<|call"],
        "variants": {"logits_with_truncated_range": {"rope": {"truncate": True}}},
        "files": {
            "chat_template.jinja": GPT_OSS_CHAT,
            "tokenizer_config.json": {
                "added_tokens_decoder": added_tokens_decoder(
                    {token["id"]: (token["content"], True) for token in json.loads(tokenizer.to_str())["added_tokens"]}),
                "bos_token": "<|startoftext|>", "clean_up_tokenization_spaces": False, "eos_token": "<|return|>", "extra_special_tokens": {},
                "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 1000000000000000019884624838656,
                "pad_token": "<|endoftext|>",
                "tokenizer_class": "PreTrainedTokenizerFast"},
            "generation_config.json": {"bos_token_id": ids["startoftext"], "do_sample": True,
                "eos_token_id": [ids["return"], ids["endoftext"], ids["call"]],
                                       "pad_token_id": ids["endoftext"], "transformers_version": "4.55.0"}}}


def gpt_oss_mxfp4():
    model = gpt_oss()
    config = V4 | model["config"] | {
        "intermediate_size": 64, "transformers_version": "4.55.0", "quantization_config": {
            "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
            "quant_method": "mxfp4"}}
    return model | {"config": config, "save_config": False, "stored": [mxfp4_experts]}


def mxfp4_experts(tensors):
    """Random blocks in place of the experts' matrices: a row for each output, 32 numbers of four bits to a block, its exponent beside it."""
    made = {}
    for name, tensor in tensors.items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            made[name] = tensor
            continue
        experts, inputs, outputs = tensor.shape
        number = generator(f"mxfp4/{name}")
        made[f"{name}_blocks"] = torch.from_numpy(number.integers(0, 256, (experts, outputs, inputs // 32, 16), np.uint8))
        made[f"{name}_scales"] = torch.from_numpy(number.integers(120, 127, (experts, outputs, inputs // 32), np.uint8))
    return made


MODELS = {
    "llama-spm": llama_spm, "llama-spm-json": llama_spm_json, "llama3": llama3, "mistral": mistral, "mixtral": mixtral, "qwen2": qwen2,
    "qwen2-yarn": qwen2_yarn, "carded": carded,
    "qwen2moe": qwen2moe, "qwen2moe-fused": qwen2moe_fused, "qwen3": qwen3, "qwen3moe": qwen3moe, "gemma2": gemma2, "gemma3": gemma3,
    "gemma3-f16": gemma3_f16,
    "phi3": phi3_window, "phi3-longrope": phi3_longrope, "gpt-oss": gpt_oss, "gpt-oss-mxfp4": gpt_oss_mxfp4,
}

# Chosen so that the best logit of each row that is kept stands out by a quarter at least.
SEEDS = {
    "llama-spm": 2, "llama-spm-json": 3, "llama3": 1, "mistral": 4, "mixtral": 6, "qwen2": 2, "qwen2-yarn": 3, "carded": 10, "qwen2moe": 3, "qwen3": 1,
    "qwen3moe": 7,
    "gemma2": 16, "gemma3": 2, "phi3": 2, "phi3-longrope": 7, "gpt-oss": 3, "gpt-oss-mxfp4": 18,
}

# Writing them. ---------------------------------------------------------------------------------------------------------------------------


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def generator(seed): return np.random.Generator(np.random.PCG64(int(hashlib.sha256(seed.encode()).hexdigest()[:16], 16)))


def random(seed, name, shape):
    """Standard normal numbers by seed and name."""
    return generator(f"{seed}/{name}").standard_normal(shape, np.float32)


def weights(seed, config, shapes):
    """Weights that give logits of some spread, and attention that looks around: matrices keep the size of what they multiply."""
    gemma = config.model_type.startswith("gemma")
    made = {}
    for name, shape in shapes.items():
        x = random(seed, name, shape)
        if "norm" in name:
            # Gemma adds one to its norms.  Those behind a block count for more than the embedding does, or each token would predict itself.
            x = x * 0.2 + (1.0 if not gemma else 1.0 if "post_" in name else 0.0)
        elif name.endswith(("bias", "sinks")): x *= 0.3 if name.endswith("bias") else 1.0
        elif name == "model.embed_tokens.weight": x *= 0.2 if gemma else 0.25 if config.tie_word_embeddings else 0.5
        elif name == "lm_head.weight": x *= 0.35
        else:
            # gpt-oss multiplies by its experts from the other side.
            inputs = shape[-2] if config.model_type == "gpt_oss" and ".experts." in name else shape[-1]
            x *= 1.4 / inputs**0.5
        made[name] = torch.from_numpy(x)
    return made


def shapes_of(config):
    with torch.device("meta"): model = AutoModelForCausalLM.from_config(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if not (name == "lm_head.weight" and config.tie_word_embeddings)}


def save(folder, tensors, cut):
    """One file, or two of which the second begins at the tensor `cut`."""
    names = list(tensors)
    parts = [names[:names.index(cut)], names[names.index(cut):]] if cut else [names]
    weight_map = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors" if cut else "model.safetensors"
        save_file({name: tensors[name].contiguous() for name in part}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    if cut: write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def make(out, names):
    out = pathlib.Path(out)
    for name in names or MODELS:
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model = MODELS[name]()
        write_json(folder / "config.json", model["config"])
        config = AutoConfig.from_pretrained(folder)
        if model.get("save_config"):
            config.dtype = model["dtype"]
            config.save_pretrained(folder)
        seed = model.get("seed", name)
        tensors = weights(f"{seed}-{SEEDS[seed]}", config, shapes_of(config))
        for change in model.get("stored", ()): tensors = change(tensors)
        tensors = {key: tensor.to(model["dtype"]) if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
        save(folder, tensors, model.get("cut"))
        if "spm" in model: (folder / "tokenizer.model").write_bytes(sentencepiece_model(**model["spm"]))
        if "tokenizer" in model: model["tokenizer"].save(str(folder / "tokenizer.json"), pretty=False)
        if model.get("tokenizer_json_of_class"):
            # What transformers makes of the files so far.
            write_json(folder / "tokenizer_config.json", model["files"]["tokenizer_config.json"])
            AutoTokenizer.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        for file, content in model["files"].items():
            if isinstance(content, str): (folder / file).write_text(content, encoding="utf-8")
            else: write_json(folder / file, content)
        for file in folder.iterdir(): file.chmod(0o644)
        print(name, sum(file.stat().st_size for file in folder.iterdir()), "bytes", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families")
    parser.add_argument("names", nargs="*")
    a = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    make(a.families, a.names)


if __name__ == "__main__":
    main()
