"""Makes one model by several methods and says what each costs and keeps.

    python batch_quantize.py MODEL METHOD...
"""

import sys

import pajamas


def main(model: str, *methods: str) -> None:
    print(f"{'method':<10} {'bytes':>14} {'KLD':>12} {'top-1':>10}")
    for method in methods:
        # One that fails is no reason to leave out the others.
        try:
            made = pajamas.quantize(model, method, validate=True)
        except pajamas.PajamasError as error:
            print(f"{method:<10} {error.message}")
            continue
        comparison = made.validation and made.validation["comparison"]
        if not comparison:
            print(f"{method:<10} {made.output_bytes:>14} {'-':>12} {'-':>10}")
            continue
        kld, top1 = comparison["kl_divergence"]["mean"], comparison["top1_agreement"]["value"]
        print(f"{method:<10} {made.output_bytes:>14} {kld:>12.5f} {top1 * 100:>8.1f} %")


if __name__ == "__main__":
    main(*sys.argv[1:])
