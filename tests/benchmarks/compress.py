"""What compressed matrices cost: bytes, error, and the time of products beside those of the dense matrix.

python tests/benchmarks/compress.py                    one thread: OPENBLAS_NUM_THREADS=1
python tests/benchmarks/compress.py --bands            which size of a band is the quickest
"""

import argparse
import time

import numpy as np

from lora_np.compress import FORMATS, matrix

OPTIONS = {"low_rank": {"r": 64}, "pruned": {"density": 0.5}}


def quickest(function, repeats=15):
    """Return the least of several times of the processor, in seconds: what else runs on the machine only adds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def seconds(W, x, dy):
    return quickest(lambda: x @ W), quickest(lambda: dy @ W.T)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=2, default=(768, 3072))
    parser.add_argument("--rows", type=int, nargs="+", default=(1, 32, 512))
    parser.add_argument("--bands", action="store_true", help="try several sizes of a band")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    W = (0.05 * rng.standard_normal(args.shape)).astype(np.float32)
    compressed = {name: FORMATS[name].of(W.T, **OPTIONS.get(name, {})).T for name in FORMATS}
    sizes = [2**k for k in range(16, 24)] if args.bands else [matrix.BAND_BYTES]
    print(f"W {W.shape}, float32, {W.nbytes:,} bytes; time as a multiple of the dense product's: x @ W, dy @ W.T")
    for rows in args.rows:
        x, dy = (rng.standard_normal((rows, d)).astype(np.float32) for d in args.shape)
        dense = seconds(W, x, dy)
        print(f"\n{rows} rows, dense {dense[0] * 1e3:.2f} and {dense[1] * 1e3:.2f} ms")
        for name, M in compressed.items():
            error = np.linalg.norm(M.dense() - W) / np.linalg.norm(W)
            for matrix.BAND_BYTES in sizes:
                ratios = [mine / theirs for mine, theirs in zip(seconds(M, x, dy), dense)]
                band = f"  bands of {matrix.BAND_BYTES >> 10} kB" if args.bands else ""
                share = M.nbytes / W.nbytes
                print(
                    f"  {name:<9} {share:6.1%} of the bytes, error {error:.4f}  {ratios[0]:5.2f} {ratios[1]:5.2f}{band}"
                )


if __name__ == "__main__":
    main()
