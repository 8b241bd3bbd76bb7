"""Recomputes golden/imatrix.json: what llama-imatrix sums up of the columns that reach each matrix, by transformers in float32.

    pip install torch transformers sentencepiece protobuf
    python imatrix_golden.py FIXTURES_DIR OUT_JSON

FIXTURES_DIR is tests/fixtures.  The text is pajama-tiny's validation.txt for all models.  Of each tensor, by its name in GGUF: `counts`,
the rows that were multiplied with it (with each expert, where there are several), and `means` of the squares of some `columns`, a list
for each count.  Prints how near the routers' decisions are.  Takes about fifteen seconds; a second run writes the same bytes.
"""
import argparse, json, os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

# llama-imatrix reads 512 tokens at a time unless told otherwise.
CHUNK, FIRST, EVERY = 512, 8, 37
MODELS = {"pajama-tiny": "pajama-tiny", "qwen3moe": "families/qwen3moe", "mixtral": "families/mixtral"}
# Modules of a layer, and the tensors that GGUF stores for them.
LINEAR = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output"}
DENSE = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
ROUTED = {"mlp.gate": "ffn_gate_inp"}


def rounded(x): return float(f"{x:.6g}")


class Sums:
    """Counts and sums of squares by tensor.  In float64, so that the order of adding does not matter."""
    def __init__(self): self.counts, self.squares = {}, {}

    def add(self, name, rows, index=0, of=1):
        if name not in self.counts:
            self.counts[name], self.squares[name] = [0] * of, torch.zeros(of, rows.shape[-1], dtype=torch.float64)
        self.counts[name][index] += rows.shape[0]
        self.squares[name][index] += rows.double().square().sum(0)


def watch(model, sums, margins):
    """Has `sums` take what goes into the matrices of each layer, and `margins` what the routers' last choice was ahead of the next expert."""
    for number, layer in enumerate(model.model.layers):
        experts = getattr(layer.mlp, "experts", None)
        for module, tensor in (LINEAR | (DENSE if experts is None else ROUTED)).items():
            def linear(_, inputs, name=f"blk.{number}.{tensor}.weight"): sums.add(name, inputs[0].flatten(0, -2))
            layer.get_submodule(module).register_forward_pre_hook(linear)
        if experts is None: continue

        def router(module, _, outputs):
            best = outputs[0].topk(module.top_k + 1).values
            margins.append(best[:, -2] - best[:, -1])
        layer.mlp.gate.register_forward_hook(router)

        def routed(module, inputs, output, number=number):
            # What reaches the last matrix is nobody's input or output here, so it is computed once more.
            hidden, chosen, weights = inputs
            again = torch.zeros_like(output)
            for expert in range(module.num_experts):
                token, place = torch.where(chosen == expert)
                rows = hidden[token]
                gate, up = (rows @ module.gate_up_proj[expert].T).chunk(2, -1)
                inner = module.act_fn(gate) * up
                for name, x in ("ffn_gate_exps", rows), ("ffn_up_exps", rows), ("ffn_down_exps", inner):
                    sums.add(f"blk.{number}.{name}.weight", x, expert, module.num_experts)
                again.index_add_(0, token, inner @ module.down_proj[expert].T * weights[token, place, None])
            torch.testing.assert_close(again, output)
        experts.register_forward_hook(routed)


def chunks(tok, text):
    """The chunks that llama-imatrix reads: each begins a context, so its first token makes room for the one that texts begin with, if any."""
    # Special tokens written in the text are plain text.
    tok.backend_tokenizer.encode_special_tokens = True
    ids, whole = tok.encode(text, add_special_tokens=False, verbose=False), tok.encode(text, verbose=False)
    start = whole[:len(whole) - len(ids)]
    assert whole == start + ids and start == ([tok.bos_token_id] if getattr(tok, "add_bos_token", False) else []), start
    for at in range(0, len(whole) - CHUNK + 1, CHUNK): yield start + whole[at + len(start):at + CHUNK]


def rows_of(sums):
    for name, counts in sums.counts.items():
        assert all(counts), f"{name}: an expert that no token went to has no mean"
        squares = sums.squares[name]
        columns = [i for i in range(squares.shape[1]) if i < FIRST or i % EVERY == 0]
        means = [[rounded(x) for x in (row[columns] / count).tolist()] for row, count in zip(squares, counts)]
        yield {"name": name, "counts": counts, "columns": columns, "means": means}


@torch.inference_mode()
def collect(folder, text):
    tok = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
    assert all(tensor.dtype == torch.float32 for tensor in model.parameters())
    sums, margins, count = Sums(), [], 0
    watch(model, sums, margins)
    for chunk in chunks(tok, text):
        model(torch.tensor([chunk]), use_cache=False)
        count += 1
    return count, list(rows_of(sums)), torch.cat(margins) if margins else None


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("fixtures_dir"); ap.add_argument("out_json")
    a = ap.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    with open(os.path.join(a.fixtures_dir, "pajama-tiny", "validation.txt"), encoding="utf-8", newline="") as f: text = f.read()
    models = []
    for name, folder in MODELS.items():
        count, rows, margins = collect(os.path.join(a.fixtures_dir, folder), text)
        head = json.dumps({"name": name, "folder": folder, "chunks": count, "chunk_tokens": CHUNK})[:-1]
        models.append(head + ', "tensors": [\n  ' + ",\n  ".join(json.dumps(row) for row in rows) + "\n]}")
        print(f"{name}: {count} chunks, {len(rows)} tensors")
        if margins is not None:
            near = ", ".join(f"{(margins < limit).sum()} below {limit}" for limit in (1e-2, 1e-3, 1e-4, 1e-5))
            print(f"  {len(margins)} decisions of routers, the nearest by {margins.min():.3g} (of logits); {near}")
    versions = json.dumps({"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__})
    with open(a.out_json, "w", encoding="ascii", newline="\n") as f:
        f.write(f'{{\n"versions": {versions},\n"models": [\n' + ",\n".join(models) + "\n]\n}\n")


if __name__ == "__main__":
    main()
