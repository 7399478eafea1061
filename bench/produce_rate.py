"""How well `shopstream produce` holds its rate, and what it costs, on the stack that runs.

    python bench/produce_rate.py --rates 1000 10000 20000 --seconds 20

Prints one line per rate: asked, achieved, difference, longest delay of an event, CPU of the producer (1 core = 100 %).
"""

import argparse
import json
import resource
import subprocess
import sys


def produce(home: str, rate: int, seconds: float) -> tuple[dict[str, float], float]:
    """Run the command once; return its report and the CPU seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    arguments = ["--home", home, "produce", "--rate", str(rate), "--seconds", str(seconds), "--json"]
    done = subprocess.run([sys.executable, "-m", "cli.main", *arguments], check=True, stdout=subprocess.PIPE)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report: dict[str, float] = json.loads(done.stdout)
    return report, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure each rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", default=".shopstream")
    parser.add_argument("--rates", type=int, nargs="+", default=[1_000, 10_000, 20_000])
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    _, start_up_s = produce(options.home, 1, 1.0)
    for rate in options.rates:
        report, cpu_s = produce(options.home, rate, options.seconds)
        off = report["rate_achieved"] / rate - 1.0
        line = (
            f"asked {rate:>7,}  achieved {report['rate_achieved']:>10,.1f}  ({off:+.2%})  behind at most "
            f"{report['behind_ms_max']:.0f} ms  CPU {(cpu_s - start_up_s) / report['seconds']:.0%}"
        )
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
