"""Random cases run with hnetfast and hypnettorch, in one process, until the time is over.

``python -m tests.fuzz --minutes 10 --seed 1`` prints a script for every disagreement that
docs/differences.md does not list, and ends with status 1 if there was any.
"""

import argparse
import collections
import sys
import time
import traceback

import torch

from tests.fuzz._case import Case, Draw
from tests.fuzz._hypernetworks import as_main_network, hypernetwork, nested
from tests.fuzz._judge import judge, smaller
from tests.fuzz._known import known_difference
from tests.fuzz._main_networks import main_network
from tests.fuzz._regularisers import elastic_weight_consolidation, output_regulariser, synaptic_intelligence

MAKERS = {
    main_network: 10,
    hypernetwork: 10,
    nested: 2,
    as_main_network: 1,
    output_regulariser: 4,
    elastic_weight_consolidation: 1.5,
    synaptic_intelligence: 0.5,
}


def make_case(seed: int, number: int) -> Case:
    """The case of a number, which does not depend on the cases before it."""
    draw = Draw(f"{seed}/{number}")
    return draw.choices(list(MAKERS), list(MAKERS.values()))[0](draw)


def run_case(case: Case):
    """Findings of a case that docs/differences.md does not list."""
    return [finding for finding in judge(case) if not known_difference(case, finding)]


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run this case only")
    parser.add_argument("--cases", type=int, help="stop after as many cases")
    parser.add_argument("--show", action="store_true", help="print the cases that are run")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    stop = time.monotonic() + 60 * options.minutes
    numbers = range(options.cases or sys.maxsize) if options.case is None else [options.case]
    counts, families, done = collections.Counter(), collections.Counter(), 0
    for number in numbers:
        if time.monotonic() > stop:
            break
        case = make_case(options.seed, number)
        here = f"=== seed {options.seed}, case {number}"
        if options.show:
            print(case.source, flush=True)
        try:
            findings = run_case(case)
        except Exception:
            print(f"{here}: the tool failed\n{case.source}\n{traceback.format_exc()}")
            counts["tool"] += 1
            continue
        done += 1
        families[case.family] += 1
        seen = set()
        for finding in findings:
            if finding.name in seen:
                continue
            seen.add(finding.name)
            counts[f"{finding.kind}: {case.family}"] += 1
            small, least = smaller(case, finding, known_difference)
            print(f"{here}: {least.kind}, {least.label}{least.path}: {least.message}")
            print(small.script(least.label), flush=True)
    print(f"{done} cases with seed {options.seed}: {dict(families)}")
    for kind, count in sorted(counts.items()):
        print(f"{count:5} {kind}")
    return 1 if counts else 0


if __name__ == "__main__":
    raise SystemExit(main())
