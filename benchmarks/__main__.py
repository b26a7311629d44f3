"""`python -m benchmarks`: see benchmarks.kernels."""

from benchmarks.kernels import main

if __name__ == "__main__":
    main()
