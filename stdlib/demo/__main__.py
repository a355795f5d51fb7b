"""Trains the VAE on real digits, fits the noisy cone, and draws both into `demo-output/`."""

import sys
import time
from pathlib import Path

from stdlib.demo import cone, digits, figures


def main(output: Path = Path("demo-output")) -> None:
    """Runs both parts and prints what they found."""
    start = time.perf_counter()
    output.mkdir(exist_ok=True)

    trained = digits.train()
    print(digits.report(trained), flush=True)
    figures.draw_digits(trained, output)

    fits = cone.fit_both()
    print(cone.table(fits), flush=True)
    figures.draw_cone(fits, output)

    names = ", ".join(sorted(path.name for path in output.glob("*.png")))
    print(f"\nPictures in {output}/: {names}")
    print(f"All of it took {time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)  # as a shell reports Ctrl-C
