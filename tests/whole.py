"""The whole suite in two parts: what shares the machine well two at a time, then what measures time or starts a site.

    python -m tests.whole [what pytest takes]

Ends with the counts of both parts; 0 when neither failed.
"""

import subprocess
import sys
import time
from dataclasses import dataclass

NOTHING_COLLECTED = 5
PARTS = {
    "two at a time": (
        "-m",
        "not benchmark and not alone",
        "--numprocesses",
        "2",
        "--dist",
        "loadfile",
        "--no-loadscope-reorder",
    ),
    "one by one": ("-m", "not benchmark and alone"),
}


@dataclass
class Part:
    name: str
    code: int
    counts: str
    seconds: float


def carried_out(name: str, options: tuple[str, ...], more: list[str]) -> Part:
    print(f"\n### Tests that run {name}", flush=True)
    began, last = time.monotonic(), ""
    argv = [sys.executable, "-m", "pytest", *options, *more]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return Part(name, process.returncode, last.strip("= "), time.monotonic() - began)


def main(more: list[str]) -> int:
    parts = [carried_out(name, options, more) for name, options in PARTS.items()]
    print("\n### The whole suite")
    for part in parts:
        print(f"{part.name}: {part.counts}")
    print(f"together {sum(part.seconds for part in parts) / 60:.1f} min", flush=True)
    codes = {part.code for part in parts}
    return next((code for code in sorted(codes, reverse=True) if code not in (0, NOTHING_COLLECTED)), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
