"""How fast models are on every backend that can run them.

    python benchmark.py MODEL...
"""

import sys

import pajamas


def main(*models: str) -> None:
    report = pajamas.benchmark(models, backends="all", prompt_tokens=128, generate_tokens=32, repetitions=3)
    for run in report["runs"]:
        if run["error"]:
            print(f"{run['model']} on {run['backend']}: {run['error']}")
        for test in run["tests"]:
            if test["status"] == "measured":
                rate = test["tokens_per_second"]
                speed = f"{rate['mean']:.1f} ± {rate['standard_deviation'] or 0:.1f} tokens/s"
                print(f"{run['model']} on {run['backend']}: {test['test']} {speed}")


if __name__ == "__main__":
    main(*sys.argv[1:])
