"""Compares `pajamas quantize --format mlx` with `mlx_lm convert -q`: time and memory for 4 bits in groups of 64.

    python mlx_convert.py TARGET MODEL WORK [--repetitions 5]

TARGET holds pajamas, its worker and its plugins; the Python that runs this has mlx-lm. Both programs are measured whole,
in turn and in changing order, after one run of each that does not count. Memory is the peak of the largest process of each:
pajamas has two, of which the worker converts. Only pajamas waits until its files are on the disk.
"""
import argparse, hashlib, json, os, shutil, subprocess, sys, time
from importlib.metadata import version
from statistics import median


def measure(command, folder):
    """Seconds, seconds of all processors, and MiB at the peak."""
    shutil.rmtree(folder, ignore_errors=True)
    os.sync()
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status: sys.exit(errors.decode())
    peak = usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return seconds, usage.ru_utime + usage.ru_stime, peak


def digests(folder):
    """The content of each tensor, digested."""
    found = {}
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".safetensors"): continue
        with open(os.path.join(folder, name), "rb") as f:
            header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
            start = f.tell()
            header.pop("__metadata__", None)
            for tensor, about in header.items():
                begin, end = about["data_offsets"]
                f.seek(start + begin)
                found[tensor] = about["dtype"], about["shape"], hashlib.sha256(f.read(end - begin)).digest()
    return found


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("target"); ap.add_argument("model"); ap.add_argument("work")
    ap.add_argument("--repetitions", type=int, default=5)
    a = ap.parse_args()
    os.makedirs(a.work, exist_ok=True)
    ours, theirs = (os.path.join(a.work, name) for name in ("pajamas", "mlx-lm"))
    sides = {
        ours: [os.path.join(a.target, "pajamas"), "quantize", a.model, "--format", "mlx", "-m", "4bit", "--group-size", "64", "--no-validate",
               "--plugin-dir", a.target, "-o", a.work, "-n", "pajamas"],
        theirs: [sys.executable, "-m", "mlx_lm", "convert", "-q", "--q-bits", "4", "--q-group-size", "64", "--model", a.model,
                 "--mlx-path", theirs],
    }
    for folder, command in sides.items(): measure(command, folder)
    same = "the same" if digests(ours) == digests(theirs) else "DIFFERENT"
    runs = {folder: [] for folder in sides}
    for repetition in range(a.repetitions):
        for folder in list(sides)[:: -1 if repetition % 2 else 1]: runs[folder].append(measure(sides[folder], folder))
    shutil.rmtree(a.work)

    print(f"4 bits in groups of 64: {os.path.basename(a.model)}, mlx-lm {version('mlx-lm')}, {a.repetitions} repetitions; "
          f"{same} tensors\n")
    print("| measure | pajamas | mlx-lm | ratio of medians | median ratio of pairs |\n|---|---|---|---|---|")
    for index, name in enumerate(("time, s", "time of all processors, s", "peak memory, MiB")):
        x, y = ([run[index] for run in runs[folder]] for folder in (ours, theirs))
        pairs = median(b / a for a, b in zip(x, y))
        print(f"| {name} | {median(x):.2f} | {median(y):.2f} | {median(y) / median(x):.2f} | {pairs:.2f} |")
    print("\nRatios are mlx-lm's to pajamas's: above 1, pajamas needs less.\n")


if __name__ == "__main__":
    main()
