"""Compares `pajamas quantize` on a Hugging Face folder with llama.cpp's converter and then its quantizer.

    python convert.py TARGET MODEL WORK --llama-cpp LLAMA_CPP [--method Q4_K_M] [--repetitions 3] [--only SIDE] [--once]

TARGET holds pajamas, its worker, its plugins and examples/llama_quantize; the Python that runs this has what llama.cpp's converter
needs. Both sides are measured whole, in turn and in changing order, after one run of each that does not count; then their files
are compared. Of llama.cpp's two programs, times and bytes add up, and the larger peak counts.

What the memory of a process is: its resident pages, mapped files among them. "Largest process" is the kernel's own account
(ru_maxrss). For "all processes", what the processes running at one time have is added up every 20 ms; a file that two of them map
counts twice. "Without mapped files" leaves out the pages that the kernel can drop when memory is short.

What is written: the pages that the side's processes made the kernel write (write_bytes in /proc/PID/io, which has no sampling error).
What is not in Linux's /proc elsewhere is left out there.
"""
import argparse, os, shutil, subprocess, sys, threading, time
from statistics import median

LINUX = sys.platform.startswith("linux")
INTERVAL = 0.02
# Keys that only one side writes.
OURS_ALONE = ("pajamas.", "general.source.")

# Runs in a process of its own. The converter knows pre-tokenizers by a hash over a model's token ids, and a random model has
# pajama-tiny's.
CONVERTER = """
import runpy, sys
llama_cpp, model, output = sys.argv[1:4]
sys.path[:0] = [llama_cpp, llama_cpp + "/gguf-py"]
sys.argv = ["convert_hf_to_gguf.py", model, "--outfile", output, "--outtype", "auto"]
from conversion import base
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
runpy.run_path(llama_cpp + "/convert_hf_to_gguf.py", run_name="__main__")
"""

SUMMED = {"time, s": 2, "time until the files are on the disk, s": 2, "time of all processors, s": 2, "written, MB": 0}
PEAKS = {"peak memory of the largest process, MiB": 0, "peak memory of all processes, MiB": 0, "the same without mapped files, MiB": 0}
DECIMALS = SUMMED | PEAKS


def tree(pid):
    """The process and its descendants."""
    yield pid
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as f: children = f.read().split()
            for child in children: yield from tree(child)
    except OSError: pass  # It has ended.


def resident(pid):
    """KiB that a process has resident, and how much of that is no mapped file."""
    fields = {}
    try:
        with open(f"/proc/{pid}/status") as f:
            for line in f:
                name, _, value = line.partition(":")
                if name in ("RssAnon", "RssFile", "RssShmem"): fields[name] = int(value.split()[0])
    except OSError: pass
    private = fields.get("RssAnon", 0) + fields.get("RssShmem", 0)
    return private + fields.get("RssFile", 0), private


def watch(pid, done, peaks):
    while not done.wait(INTERVAL):
        processes = [resident(process) for process in tree(pid)]
        peaks[:] = (max(peak, sum(one)) for peak, one in zip(peaks, zip(*processes)))


def written():
    """Bytes that this process and those it has waited for made the kernel write."""
    with open("/proc/self/io") as f: counts = dict(line.split(": ") for line in f)
    return int(counts["write_bytes"]) - int(counts["cancelled_write_bytes"])


def measure(command, folder):
    before = set(os.listdir(folder))
    os.sync()
    bytes_before = written() if LINUX else 0
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    done, peaks = threading.Event(), [0, 0]
    watcher = threading.Thread(target=watch, args=(process.pid, done, peaks))
    if LINUX: watcher.start()
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    done.set()
    if LINUX: watcher.join()
    if status: sys.exit(errors.decode(errors="replace"))
    found = {"written, MB": (written() - bytes_before) / 1e6} if LINUX else {}
    for name in set(os.listdir(folder)) - before:
        with open(os.path.join(folder, name), "rb") as f: os.fsync(f.fileno())
    found["time, s"] = seconds
    found["time until the files are on the disk, s"] = time.perf_counter() - began
    found["time of all processors, s"] = usage.ru_utime + usage.ru_stime
    found["peak memory of the largest process, MiB"] = usage.ru_maxrss / (1 << 10 if LINUX else 1 << 20)
    if LINUX: found["peak memory of all processes, MiB"], found["the same without mapped files, MiB"] = (peak / (1 << 10) for peak in peaks)
    return found


def run(commands, folder):
    """What each of the commands takes, and all of them one after the other."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    steps = [measure(command, folder) for command in commands]
    return steps, {name: (sum if name in SUMMED else max)(step[name] for step in steps) for name in DECIMALS if name in steps[0]}


def forget(folder):
    """The folder's files are no longer in memory."""
    os.sync()
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as f: os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def differences(llama_cpp, ours, theirs):
    """What differs between two GGUF files, and how many tensors there are."""
    sys.path.insert(0, os.path.join(llama_cpp, "gguf-py"))
    from gguf import GGUFReader
    ours, theirs = GGUFReader(ours), GGUFReader(theirs)

    def metadata(reader):
        return {key: (field.types, field.contents()) for key, field in reader.fields.items()
                if not key.startswith(("GGUF.", *OURS_ALONE))}

    found, (a, b) = [], map(metadata, (ours, theirs))
    short = lambda about: "nothing" if about is None else repr(about[1])[:80]
    for key in sorted(a.keys() | b.keys()):
        if a.get(key) != b.get(key): found.append(f"{key}: pajamas {short(a.get(key))}, llama.cpp {short(b.get(key))}")
    kind = lambda tensor: f"{tensor.tensor_type.name} {tensor.shape.tolist()}"
    a, b = ({tensor.name: tensor for tensor in reader.tensors} for reader in (ours, theirs))
    for name in sorted(a.keys() | b.keys()):
        x, y = a.get(name), b.get(name)
        if x is None or y is None: found.append(f"{name}: only {'llama.cpp' if x is None else 'pajamas'} has it")
        elif kind(x) != kind(y): found.append(f"{name}: pajamas {kind(x)}, llama.cpp {kind(y)}")
        elif x.data.tobytes() != y.data.tobytes(): found.append(f"{name}: the data differ")
    return found, len(b)


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("target"); ap.add_argument("model"); ap.add_argument("work")
    ap.add_argument("--llama-cpp", help="llama.cpp's source folder")
    ap.add_argument("--method", default="Q4_K_M")
    ap.add_argument("--repetitions", type=int, default=3)
    ap.add_argument("--only", choices=("pajamas", "llama.cpp"), help="measure this side alone, and compare no files")
    ap.add_argument("--once", action="store_true", help="run once, with the model not in memory, and count that")
    a = ap.parse_args()
    if a.once and not LINUX: ap.error("--once needs Linux")
    if a.only != "pajamas" and not a.llama_cpp: ap.error("--llama-cpp is missing")
    at = lambda side, name: os.path.join(a.work, side, name)
    threads = len(os.sched_getaffinity(0)) if LINUX else os.cpu_count()
    sides = {
        "pajamas": [[os.path.join(a.target, "pajamas"), "quantize", a.model, "-m", a.method, "--no-validate", "--plugin-dir", a.target,
                     "-o", os.path.join(a.work, "pajamas"), "-n", "output"]],
        "llama.cpp": [[sys.executable, "-c", CONVERTER, a.llama_cpp, a.model, at("llama.cpp", "intermediate.gguf")],
                      [os.path.join(a.target, "examples", "llama_quantize"), at("llama.cpp", "intermediate.gguf"),
                       at("llama.cpp", "output.gguf"), a.method, str(threads)]],
    }
    if a.only: sides = {a.only: sides[a.only]}

    runs = {side: [] for side in sides}
    for repetition in range(1 if a.once else a.repetitions + 1):
        for side in list(sides)[:: 1 if repetition % 2 else -1]:
            if a.once: forget(a.model)
            runs[side].append(run(sides[side], os.path.join(a.work, side)))
    if not a.once:
        for side in sides: del runs[side][0]

    size = lambda path: f"{os.path.getsize(path) / 1e6:,.0f} MB"
    print(f"{a.method}: {os.path.basename(a.model)}, {'one run' if a.once else f'{a.repetitions} repetitions'}, {threads} processors; "
          f"{size(at(next(iter(sides)), 'output.gguf'))} come out")
    if not a.only:
        found, tensors = differences(a.llama_cpp, at("pajamas", "output.gguf"), at("llama.cpp", "output.gguf"))
        print("\n".join(found) if found else f"the same {tensors} tensors, and the same metadata but {', '.join(key + '*' for key in OURS_ALONE)}")
    shutil.rmtree(a.work)

    totals = {side: [total for _, total in runs[side]] for side in sides}
    names = [name for name in DECIMALS if name in next(iter(totals.values()))[0]]
    middle = lambda side, name: median(total[name] for total in totals[side])
    if a.only:
        print(f"\n| measure | {a.only} |\n|---|---|")
        for name in names: print(f"| {name} | {middle(a.only, name):.{DECIMALS[name]}f} |")
    else:
        print("\n| measure | pajamas | llama.cpp | ratio of medians | median ratio of pairs |\n|---|---|---|---|---|")
        for name in names:
            x, y = middle("pajamas", name), middle("llama.cpp", name)
            pairs = median(theirs[name] / ours[name] for ours, theirs in zip(totals["pajamas"], totals["llama.cpp"]))
            print(f"| {name} | {x:.{DECIMALS[name]}f} | {y:.{DECIMALS[name]}f} | {y / x:.2f} | {pairs:.2f} |")
        print("\nRatios are llama.cpp's to pajamas's: above 1, pajamas needs less.")
    if "llama.cpp" in sides:
        print("\n| llama.cpp's | converter | quantizer |\n|---|---|---|")
        for name in names:
            steps = (median(run[0][step][name] for run in runs["llama.cpp"]) for step in range(2))
            print(f"| {name} | " + " | ".join(f"{step:.{DECIMALS[name]}f}" for step in steps) + " |")
    print(flush=True)


if __name__ == "__main__":
    main()
