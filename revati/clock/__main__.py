"""``python -m revati.clock [options] -- COMMAND``: virtual time without the virtual GPU."""

from __future__ import annotations

import argparse
import sys

from revati.clock.launch import CPU_TIME_MODES, ClockError, launch

_WAKE_UP = {
    "wake-cost-us": "what the end of a wait costs (30)",
    "timer-slack-us": "how late a timeout ends (50)",
    "cold-share": "how much longer the first work after a long wait takes (0.35)",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    at = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(prog="python -m revati.clock", description=__doc__)
    add = parser.add_argument
    add("--cpu-time", choices=CPU_TIME_MODES, default="charged", help="what moves the clock besides waits")
    add("--cpu-factor", type=float, default=1.0, help="host CPU time times this is charged")
    add("--epoch", type=float, help="wall clock at the start, seconds since 1970")
    add("--time-log", help="write every change of the clock to this file")
    add("--stats", dest="stats_file", help="write statistics to this file")
    add("--run-dir", help="private directory of the run")
    add("--exit-when-stuck", action="store_true", help="exit 3 when all wait without a deadline")
    add("--parallel", action="store_true", help="free: do not run threads one at a time")
    add("--allow-real-time", action="store_true", help="also run what cannot be covered")
    add("--naive", action="store_true", help=argparse.SUPPRESS)  # the negative control of the tests
    add("--listen", help="HOST:PORT for participants on other hosts; the secret is in REVATI_CLOCK_TOKEN")
    add("--quiet", action="store_true", help="no closing line")
    add("--grace", dest="grace_s", type=float, help="real seconds to end after a signal (10)")
    for name, says in _WAKE_UP.items():
        add(f"--{name}", type=float, help=f"charged: {says}")
    options = vars(parser.parse_args(given[:at]))
    extra = [f"--{n}" for n in ("naive", "quiet") if options.pop(n)]
    for name in _WAKE_UP:
        if (value := options.pop(name.replace("-", "_"))) is not None:
            extra += [f"--{name}", repr(value)]
    if listen := options.pop("listen"):
        extra += ["--listen", listen]
    try:
        return launch(given[at + 1 :], extra=extra, **options)
    except ClockError as error:
        print(f"revati: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
