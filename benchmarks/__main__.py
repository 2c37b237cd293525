"""``python -m benchmarks [NAME…]``: run all benchmarks, or those named."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import benchmarks


def names() -> list[str]:
    """The benchmarks there are."""
    return sorted(info.name for info in pkgutil.iter_modules(benchmarks.__path__) if not info.name.startswith("_"))


def main(chosen: list[str]) -> int:
    """Run benchmarks and print their figures; 1 if one falls short, 2 if a name is unknown."""
    known = names()
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        print(f"There is no benchmark {unknown[0]!r}. The benchmarks are: {', '.join(known)}.", file=sys.stderr)
        return 2
    short = False
    for name in chosen or known:
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"\n== {name}: {(module.__doc__ or '').splitlines()[0]}", flush=True)
        for figure in module.run():
            print(figure, flush=True)
            short = short or not figure.ok
    return int(short)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
