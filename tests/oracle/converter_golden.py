"""Recomputes what llama.cpp's own converter makes of a model, and compares other GGUF files with it.

    python converter_golden.py golden  LLAMA_CPP MODEL_FOLDER PRE_TOKENIZER OUTPUT_JSON
    python converter_golden.py compare LLAMA_CPP MODEL_FOLDER PRE_TOKENIZER OUTTYPE GGUF

LLAMA_CPP is llama.cpp's source folder (`vendor/llama.cpp` of the PyPI sdist llama-cpp-python==0.3.36). The
converter knows pre-tokenizers by a hash over a model's token ids, so a model with a vocabulary of its own is refused:
that one function is replaced by PRE_TOKENIZER (`qwen2`, `llama-bpe`). Needs torch, transformers and sentencepiece.
"""

import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

# Runs in a process of its own, since the converter reads its arguments and sets up logging globally.
CONVERTER = """
import runpy, sys
llama_cpp, model, output, outtype, pre_tokenizer = sys.argv[1:6]
sys.path[:0] = [llama_cpp, llama_cpp + "/gguf-py"]
sys.argv = ["convert_hf_to_gguf.py", model, "--outfile", output, "--outtype", outtype]
from conversion import base
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre_tokenizer
runpy.run_path(llama_cpp + "/convert_hf_to_gguf.py", run_name="__main__")
"""

# Arrays longer than this are kept as their length and hash.
ARRAY_LENGTH_MAX = 16


def run_converter(llama_cpp, model, pre_tokenizer, outtype, output):
    command = [sys.executable, "-c", CONVERTER, llama_cpp, model, str(output), outtype, pre_tokenizer]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def value_of(field):
    """A field as JSON; a long array becomes its length and the hash of its items, each followed by a newline."""
    contents = field.contents()
    types = [value_type.name for value_type in field.types]
    if isinstance(contents, list) and len(contents) > ARRAY_LENGTH_MAX:
        joined = "".join(f"{item}\n" for item in contents).encode()
        contents = {"length": len(contents), "sha256": sha256(joined)}
    return {"type": types, "value": contents}


def describe(llama_cpp, path):
    sys.path.insert(0, llama_cpp + "/gguf-py")
    from gguf import GGUFReader

    reader = GGUFReader(path)
    return {
        "metadata": {key: value_of(field) for key, field in reader.fields.items() if not key.startswith("GGUF.")},
        "tensors": [
            {
                "name": tensor.name,
                "type": tensor.tensor_type.name,
                "shape": [int(size) for size in tensor.shape],
                "sha256": sha256(tensor.data.tobytes()),
            }
            for tensor in reader.tensors
        ],
    }


def oracle(llama_cpp, model, pre_tokenizer, outtype):
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "oracle.gguf"
        run_converter(llama_cpp, model, pre_tokenizer, outtype, output)
        return describe(llama_cpp, output), sha256(output.read_bytes())


def golden(llama_cpp, model, pre_tokenizer, output):
    result = {}
    for outtype in ("auto", "f16", "f32"):
        result[outtype], result[outtype]["file_sha256"] = oracle(llama_cpp, model, pre_tokenizer, outtype)
    pathlib.Path(output).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def compare(llama_cpp, model, pre_tokenizer, outtype, path):
    theirs, file_sha256 = oracle(llama_cpp, model, pre_tokenizer, outtype)
    ours = describe(llama_cpp, path)
    differences = 0
    for key in list(theirs["metadata"]) + [key for key in ours["metadata"] if key not in theirs["metadata"]]:
        left, right = theirs["metadata"].get(key), ours["metadata"].get(key)
        if left != right:
            differences += 1
            print(f"{key}: converter {left}, ours {right}")
    if list(theirs["metadata"]) != list(ours["metadata"]):
        print("the order of keys differs")
    if [tensor["name"] for tensor in theirs["tensors"]] != [tensor["name"] for tensor in ours["tensors"]]:
        print("the order of tensors differs")
    by_name = {tensor["name"]: tensor for tensor in ours["tensors"]}
    for tensor in theirs["tensors"]:
        if by_name.pop(tensor["name"], None) != tensor:
            differences += 1
            print(f"tensor {tensor['name']} differs")
    for name in by_name:
        differences += 1
        print(f"tensor {name} is ours alone")
    same_file = sha256(pathlib.Path(path).read_bytes()) == file_sha256
    print(f"{differences} differences; the files are {'identical' if same_file else 'not identical'}")
    return differences


if __name__ == "__main__":
    if len(sys.argv) == 6 and sys.argv[1] == "golden":
        golden(*sys.argv[2:])
    elif len(sys.argv) == 7 and sys.argv[1] == "compare":
        sys.exit(1 if compare(*sys.argv[2:]) else 0)
    else:
        sys.exit(__doc__)
