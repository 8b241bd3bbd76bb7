"""Recomputes tests/fixtures/golden/validate.json: what `pajamas validate` must come to, by NumPy from saved logits.

    python tests/oracle/validate_golden.py RELEASE_DIR MODEL_DIR OUT_JSON

RELEASE_DIR holds the built `pajamas`, `libgguf_cpu.so` and `examples/logits` (`cargo build --release -p pajamas-tests
--example logits`). The candidate is Q4_K_M, the reference F16, on the first 512 tokens in windows of 256.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TOKENS, WINDOW = 512, 256


def main() -> None:
    release, model, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), Path(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        rows, following = {}, None
        environment = {**os.environ, "PAJAMAS_HOME": folder}
        for method in ("F16", "Q4_K_M"):
            command = [release / "pajamas", "--plugin-dir", release, "quantize", model, "-m", method, "--no-validate"]
            path = subprocess.run(command, check=True, env=environment, capture_output=True, text=True).stdout.strip()
            array = Path(folder) / f"{method}.npy"
            command = [release / "examples/logits", release / "libgguf_cpu.so", path, model / "validation.txt"]
            command += [str(TOKENS), str(WINDOW), array]
            following = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rows[method] = np.load(array).astype(np.float64)
    golden = {"candidate": "Q4_K_M", "reference": "F16", "tokens": TOKENS, "window": WINDOW}
    golden |= compare(rows["F16"], rows["Q4_K_M"], np.array(following))
    out.write_text(json.dumps(golden, indent=1) + "\n")


def log_softmax(rows: np.ndarray) -> np.ndarray:
    shifted = rows - rows.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def compare(reference: np.ndarray, candidate: np.ndarray, following: np.ndarray) -> dict:
    p, q = log_softmax(reference), log_softmax(candidate)
    positions = np.arange(len(following))
    p_loss, q_loss = -p[positions, following], -q[positions, following]
    error = lambda values: values.std(ddof=1) / len(values) ** 0.5
    estimate = lambda value, deviation: {"value": float(value), "standard_error": float(deviation)}
    perplexity = lambda loss: estimate(np.exp(loss.mean()), np.exp(loss.mean()) * error(loss))
    excess = q_loss - p_loss
    ratio = np.exp(excess.mean())
    change = np.exp(-q_loss) - np.exp(-p_loss)
    same = (p.argmax(axis=1) == q.argmax(axis=1)).astype(np.float64)
    return {
        "positions": len(following),
        "perplexity": perplexity(q_loss),
        "reference_perplexity": perplexity(p_loss),
        "perplexity_change": estimate(ratio - 1, ratio * error(excess)),
        "kl_divergence": distribution((np.exp(p) * (p - q)).sum(axis=1), error),
        "top1_agreement": estimate(same.mean(), error(same)),
        "probability_change": distribution(change, error),
        "probability_change_rms": float((change**2).mean() ** 0.5),
    }


def distribution(values: np.ndarray, error) -> dict:
    parts = {"p01": 1, "p05": 5, "median": 50, "p90": 90, "p95": 95, "p99": 99, "p999": 99.9}
    numbers = {"mean": values.mean(), "standard_error": error(values), "minimum": values.min(), "maximum": values.max()}
    numbers |= {name: np.percentile(values, part) for name, part in parts.items()}
    return {name: float(number) for name, number in numbers.items()}


main()
