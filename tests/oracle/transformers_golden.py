"""Recomputes greedy.json, perplexity.json and tokens.json: what transformers makes of a model folder in float32.

    pip install torch transformers tokenizers safetensors
    python transformers_golden.py MODEL_DIR OUT_DIR

MODEL_DIR is a Hugging Face model folder with a validation.txt beside the weights.  Everything runs on one CPU
thread with eager attention and without a KV cache, so that a repeated run writes the same bytes.
"""
import argparse, json, math, os, unicodedata

import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

STEPS, WINDOW, SCORED_TOKENS = 64, 256, 6144


def user(text): return [{"role": "user", "content": text}]


# name, kind, messages (rendered with the chat template) or raw text (taken as it is)
PROMPTS = [
    ("capital", "factual", user("What is the capital of France?")),
    ("sum", "factual", user("What is 6 + 9?")),
    ("colour", "factual", user("What colour is a lemon?")),
    ("sound", "factual", user("What does a cow say?")),
    ("day", "factual", user("Which day comes after Tuesday?")),
    ("count", "factual", user("Count from 3 to 8.")),
    ("story-robot", "open", user("Tell me a story about a robot.")),
    ("story-llama", "open", user("Write a short story about a llama who learns to dance.")),
    ("two-turns", "factual", user("What is the capital of Japan?")
        + [{"role": "assistant", "content": "The capital of Japan is Tokyo."}] + user("What is 3 plus 4?")),
    ("raw-story", "open", "Once upon a time, a brave fox named Mia lived near a river."),
]

TEXTS = [
    # plain English, contractions, case
    "", "a", " ", "Hello!", "The capital of France is Paris.", " leading space", "trailing space ", "Once upon a time, a small robot",
    "I'm sure they'll say it's what we've got; he'd agree, you're right, don't.", "IT'S WE'LL YOU'RE I'M THEY'VE I'D CAN'T",
    "it'\u017f a long s", "it\u2019s a curly apostrophe", "'s 't 're 've 'm 'll 'd 'x", "supercalifragilisticexpialidocious",
    # numbers
    "0 1 12 123 1234567890", "3.14159, -2e10, 1,000,000", "x2y3z 4th", "\u0661\u0662\u0663 \u0967\u0968\u0969 \u00b2\u00b3 \u00bd \u2167 \u2460",
    # whitespace
    "  ", "   three before", "two  between   three    four", "a\tb\t\tc", "\t\tindent", "a\nb", "a\n\nb\n\n\nc", "\n", "\n\n", "line \n next",
    "a \n \n b", "ends with newlines\n\n", "crlf\r\nline\r\n\r\nend\r\n", "cr\ralone\r", " \t \r\n \t x", "!\n\n!?\r\n.", "a\u00a0b\u3000c\u2028d\u2029e",
    "vt\x0bff\x0cnel\x85end", "zero\u200bwidth\ufeffbom", "nul\x00sep\x1c\x1d\x1e\x1fdel\x7f",
    # scripts
    "Gr\u00fc\u00dfe aus K\u00f6ln, \u00c5ngstr\u00f6m, na\u00efve caf\u00e9, Ni\u00f1o, \u0141\u00f3d\u017a", "Vi\u1ec7t Nam \u0111\u1eb9p qu\u00e1",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0401\u043b\u043a\u0430", "\u039a\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1 \u03ba\u03cc\u03c3\u03bc\u03b5",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd", "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\u060c \u0645\u064f\u062d\u064e\u0645\u064e\u062f",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01", "\u3053\u3093\u306b\u3061\u306f\u3001\u30ab\u30bf\u30ab\u30ca\u30fc\u3002", "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4",
    "q\u0303 x\u0301y: marks that do not compose", "\U00020000 \U0001d54f \U00010348: beyond the BMP",
    # emoji and symbols
    "\U0001f642", "\U0001f468\u200d\U0001f469\u200d\U0001f467 family, \U0001f1eb\U0001f1f7 flag, \U0001f44d\U0001f3fd tone, \u2764\ufe0f heart", "ok\U0001f680go",
    "\u20ac5 \u00a37 \u00a59 \u00b1\u221e \u2260 \u2192 \u2014 \u2026 \u00ab\u00bb", "\ufffd \ue000 private", "!!!???...---___===***",
    # code and markup
    "fn main() {\n    println!(\"{}\", 1 + 2);\n}\n", "def f(x):\n\treturn x**2  # square\n", "<a href=\"x?y=1&amp;z=2\">link</a>", "{\"key\": [1, 2.5, null], \"s\": \"\\n\"}",
    "https://example.org/a_b/c-d?e=%20#f", "C:\\path\\to\\file.txt", "SELECT * FROM t WHERE a<>'b';",
    # control tokens: special as written, and near misses
    "<|endoftext|>", "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n", "a <|im_end|> b", "<|im_end|><|im_end|>\n\n<|endoftext|>x",
    "x<|im_start|>\u4e16", "<|im_end|", "<|IM_END|>", "< |im_end|>", "<<|im_end|>>", "<|im_<|im_end|>end|>",
]


def rounded(x): return float(f"{x:.6g}")


def first_of(ids, wanted): return next((i for i, t in enumerate(ids) if t in wanted), None)


def greedy(model, tok, eos):
    for name, kind, prompt in PROMPTS:
        raw = isinstance(prompt, str)
        text = prompt if raw else tok.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        start = tok.encode(text, add_special_tokens=False)
        ids, margins, seconds = list(start), [], []
        for _ in range(STEPS):
            best = model(torch.tensor([ids])).logits[0, -1].topk(2)
            ids.append(best.indices[0].item())
            seconds.append(best.indices[1].item())
            margins.append(rounded((best.values[0] - best.values[1]).item()))
        out = ids[len(start):]
        yield {"name": name, "kind": kind, "raw" if raw else "messages": prompt, "prompt": text, "prompt_ids": start, "ids": out,
               "first_eos": first_of(out, eos), "answer": tok.decode(out[:first_of(out, eos)]), "second_ids": seconds, "margins": margins}


def perplexity(model, tok, path):
    with open(path, encoding="utf-8", newline="") as f:
        ids = tok.encode(f.read(), add_special_tokens=False)
    windows = torch.tensor(ids[:SCORED_TOKENS]).view(-1, WINDOW)
    total = sum(torch.nn.functional.cross_entropy(model(w[None]).logits[0, :-1].double(), w[1:], reduction="sum").item() for w in windows)
    scored = windows.shape[0] * (WINDOW - 1)
    return {"file_tokens": len(ids), "tokens": windows.numel(), "window": WINDOW, "scored": scored,
            "nll_mean": rounded(total / scored), "perplexity": rounded(math.exp(total / scored))}


def tokens(tok):
    def encode(text, literal):
        tok.backend_tokenizer.encode_special_tokens = literal
        return tok.backend_tokenizer.encode(text, add_special_tokens=False).ids
    for text in TEXTS:
        assert unicodedata.is_normalized("NFC", text), ascii(text)
        ids, literal = encode(text, False), encode(text, True)
        assert ids == tok.encode(text, add_special_tokens=False), ascii(text)
        yield {"text": text, "ids": ids} | ({"literal_ids": literal} if literal != ids else {})
    tok.backend_tokenizer.encode_special_tokens = False


def write(path, head, key=None, rows=()):
    """One row a line, so that a change shows as the rows it touches."""
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in head.items()]
    if key: lines.append(f'"{key}": [\n  ' + ",\n  ".join(json.dumps(r) for r in rows) + "\n]")
    with open(path, "w", encoding="ascii", newline="\n") as f: f.write("{\n" + ",\n".join(lines) + "\n}\n")


@torch.inference_mode()
def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("model_dir"); ap.add_argument("out_dir")
    a = ap.parse_args()
    torch.set_num_threads(1)
    tok = AutoTokenizer.from_pretrained(a.model_dir)
    model = AutoModelForCausalLM.from_pretrained(a.model_dir, dtype=torch.float32, attn_implementation="eager").eval()
    eos = model.generation_config.eos_token_id
    eos = eos if isinstance(eos, list) else [eos]
    versions = {"versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}}
    os.makedirs(a.out_dir, exist_ok=True)
    out = lambda name: os.path.join(a.out_dir, name)
    write(out("tokens.json"), versions, "texts", tokens(tok))
    write(out("perplexity.json"), versions | perplexity(model, tok, os.path.join(a.model_dir, "validation.txt")))
    write(out("greedy.json"), versions | {"steps": STEPS, "eos_ids": eos}, "prompts", greedy(model, tok, eos))


if __name__ == "__main__":
    main()
