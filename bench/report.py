"""``python -m bench.report``: turn ``bench/results/*.json`` into the tables of README and docs, and plots."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.results import (
    COLUMNS,
    DATA_COLUMNS,
    ENSEMBLE_COLUMNS,
    FISHER_COLUMNS,
    LOCAL_CONV_COLUMNS,
    PART_COLUMNS,
    REGULARISER_COLUMNS,
    RESULTS,
    RNN_COLUMNS,
    SAMPLER_COLUMNS,
    STRUCTURED_COLUMNS,
    SUMMARY_COLUMNS,
    TILE_COLUMNS,
    TRAINING_COLUMNS,
    Results,
    data_cells,
    data_facts,
    ensemble_cells,
    ensemble_facts,
    facts,
    fisher_cells,
    groups,
    local_conv_cells,
    local_conv_facts,
    part_cells,
    regulariser_cells,
    regulariser_facts,
    rnn_cells,
    sampler_cells,
    speed_up,
    structured_cells,
    structured_facts,
    summary_cells,
    table_cells,
    tile_cells,
    training_cells,
)
from bench.timing import MODES

ROOT = RESULTS.parent.parent
START, END = "<!-- bench:start -->", "<!-- bench:end -->"
_COMPACT = [
    (mode, conditions, f"{label}, B = {conditions}")
    for mode, label in ((MODES[0], "forward"), (MODES[1], "forward+backward"))
    for conditions in (1, 10)
]
_COLORS = {"hnetfast": "#228833", "reference": "#4477aa", "hypnettorch": "#ee6677"}
_BARS = ("#88ccaa", "#228833", "#99bbdd", "#4477aa")


def _markdown_table(lines: Sequence[Sequence[str]]) -> str:
    header, *body = lines
    aligned = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, aligned, *body))


def _milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _rows_by_architecture(results: Results) -> dict[tuple[str, str], dict[tuple[str, int], dict]]:
    """The rows of the networks themselves (not Gaussian, first problem), by mode and number of conditions."""
    found: dict[tuple[str, str], dict[tuple[str, int], dict]] = {}
    for row in results.rows:
        if not row["group"].startswith("Gaussian"):
            key = (row["group"], row["layers"] or "none")
            found.setdefault(key, {}).setdefault((row["mode"], row["conditions"]), row)
    return found


def _environment_line(results: Results) -> str:
    env = results.environment
    text = (
        f"{env['device']}, {env['threads']} threads, torch {env['torch']}, hypnettorch {env['hypnettorch']}"
    )
    if "driver" in env:
        text += f", driver {env['driver']}, triton {env['triton']}"
    changed = " with uncommitted changes" if env["uncommitted_changes"] else ""
    return f"{text}; commit {env['commit']}{changed}, {env['date']}"


def readme_section(results: Results) -> str:
    """The table for the README: times of hypnettorch and of hnetfast, and their ratio."""
    lines = [["network", "hidden layers", *(label for _, _, label in _COMPACT)]]
    for (network, layers), rows in _rows_by_architecture(results).items():
        line = [network, f"`{layers}`"]
        for mode, conditions, _ in _COMPACT:
            row = rows.get((mode, conditions))
            ratio = speed_up(row) if row else None
            if ratio is None:
                line.append("–")
                continue
            times = f"{_milliseconds(row['ms']['hypnettorch'])} → {_milliseconds(row['ms']['hnetfast'])}"
            line.append(f"{times} (**{ratio:.1f}×**)")
        lines.append(line)
    summary = _markdown_table([SUMMARY_COLUMNS, *summary_cells(results.rows)])
    lines_below = "\n".join(f"- {line}" for line in facts(results))
    return (
        "Milliseconds to generate all weights for B conditions, hypnettorch → hnetfast (median).\n\n"
        f"{_markdown_table(lines)}\n\n{summary}\n\n{lines_below}\n\n{_environment_line(results)}."
    )


_ENSEMBLES = (
    "Outputs of a network for sets of weights `[B, n]` and a batch that they share, in milliseconds: "
    "`forward_batched` (hnetfast), the loop of its single calls, `torch.vmap` of its single call, and "
    "hypnettorch's loop; *fwd+bwd* ends with the gradient `[B, n]`. Networks have no batch normalisation. "
    "Peak memory is that of a process, weights and result included."
)
_STRUCTURED = (
    "`StructuredHMLP`, in milliseconds: *forward* gives the list of target tensors, *fwd+bwd* one flat "
    "result and the gradients of all parameters. The floor is the larger of the bytes of the weights and of "
    "the result at the measured copy rate and of the operations at the measured float32 matrix rate. Peak "
    "memory is that of a forward, result included (results above 16 MB)."
)
_LOCAL_CONVS = (
    "`LocalConv2dLayer`, in milliseconds; *einsum* is `unfold` and `einsum`, *compiled* the same under "
    "`torch.compile`. The floor is the larger of reading the weights once at the measured copy rate and of "
    "the operations at the measured float32 matrix rate. Peak memory is that of a process, over the bytes of "
    "images, weights, results and their gradients."
)
_REGULARISERS = (
    "`calc_fix_target_reg` with its gradients for a number of earlier tasks, in milliseconds; *hnetfast* and "
    "*hypnettorch* from the previous parameters, *direct* is hnetfast with given targets, where all weights "
    "are generated. Peak memory includes the gradients. Errors are the largest relative ones of the penalty "
    "and its gradients, in single precision against double precision."
)
_FISHERS = "`compute_fisher` of elastic weight consolidation, in milliseconds for all samples."
_SAMPLERS = (
    "Four chains of `MultiChainHMC` over the weights of an MLP 1-10-10-1, 20 samples, in milliseconds for "
    "all states. *parallel* is `num_parallel=4`: a batch in hnetfast, threads in hypnettorch."
)
_TRAININGS = (
    "SplitMNIST with an MLP 784-100-100-2 and a chunked hypernetwork (the default options of "
    "`examples.hypercl.run`), in milliseconds. *whole run*: ours is the command with its log, evaluations, "
    "figure and checkpoints, the other side a bare loop with hypnettorch's classes. *iteration*: all of a "
    "step of the optimiser but the data."
)
_DATA = (
    "Data handlers, in milliseconds: *building* reads made files of the published sizes from a warm disk, "
    "hypnettorch and hnetfast with what they left beside the files before; *first time* without. Memory is "
    "what the handlers add to a process at the peak."
)
_RNNS = (
    "`SimpleRNN` with given weights, 100 steps, width 100, batch 32, and the layer of `torch.nn` with its "
    "own, in milliseconds."
)


def docs_page(all_results: Sequence[tuple[str, Results]]) -> str:
    """A page with every row of every file of results."""
    parts = [
        "# Benchmarks\n\nWritten by `python -m bench.report` from `bench/results/`; do not edit.\n\n"
        "Times are medians in milliseconds, contenders timed in turns within one process. *forward* and "
        "*fwd+bwd* generate one flat result; *fwd+bwd, targets* generates the list of target tensors and "
        "starts the backward pass from a gradient for each, as training does. *compiled* is "
        "`torch.compile(hypnettorch)`. The floor is the larger of the operations that cannot be saved at the "
        "measured float32 matrix rate, and of filling a warm buffer of the result's size, timed in turns "
        "with the rest. Peak memory is what a forward without gradients adds to the resident memory of a "
        "process with cold caches, its result included; allowed "
        "are the result and as much again as the largest hidden layer (results above 16 MB)."
    ]
    for name, results in all_results:
        parts.append(f"## {_environment_line(results)}")
        if results.rows:
            parts.append(_markdown_table([SUMMARY_COLUMNS, *summary_cells(results.rows)]))
            parts.append("\n".join(f"- {line}" for line in facts(results)))
            parts.append(f"![Speed-up](img/speed-{name}.png)\n\n![Times](img/time-{name}.png)")
        for title, rows in groups(results.rows).items():
            parts.append(f"### {title}\n\n{_markdown_table([list(COLUMNS), *table_cells(rows)])}")
        if results.ensembles:
            parts.append("### Many sets of weights\n\n" + _ENSEMBLES)
            parts.append("\n".join(f"- {line}" for line in ensemble_facts(results.ensembles)))
            parts.append(_markdown_table([ENSEMBLE_COLUMNS, *ensemble_cells(results.ensembles)]))
        if results.structured:
            parts.append("### Structured hypernetworks\n\n" + _STRUCTURED)
            parts.append("\n".join(f"- {line}" for line in structured_facts(results.structured)))
            parts.append(_markdown_table([STRUCTURED_COLUMNS, *structured_cells(results.structured)]))
        if results.local_convs:
            parts.append("### Locally connected layers\n\n" + _LOCAL_CONVS)
            parts.append("\n".join(f"- {line}" for line in local_conv_facts(results.local_convs)))
            parts.append(_markdown_table([LOCAL_CONV_COLUMNS, *local_conv_cells(results.local_convs)]))
        if results.regularisers:
            parts.append("### Output regulariser\n\n" + _REGULARISERS)
            parts.append("\n".join(f"- {line}" for line in regulariser_facts(results.regularisers)))
            parts.append(_markdown_table([REGULARISER_COLUMNS, *regulariser_cells(results.regularisers)]))
        if results.fishers:
            parts.append("### Fisher information\n\n" + _FISHERS)
            parts.append(_markdown_table([FISHER_COLUMNS, *fisher_cells(results.fishers)]))
        if results.samplers:
            parts.append("### Markov chains\n\n" + _SAMPLERS)
            parts.append(_markdown_table([SAMPLER_COLUMNS, *sampler_cells(results.samplers)]))
        if results.trainings:
            parts.append("### Continual-learning example\n\n" + _TRAININGS)
            parts.append(_markdown_table([TRAINING_COLUMNS, *training_cells(results.trainings)]))
        if results.data:
            parts.append("### Data handlers\n\n" + _DATA)
            parts.append("\n".join(f"- {line}" for line in data_facts(results.data)))
            parts.append(_markdown_table([DATA_COLUMNS, *data_cells(results.data)]))
        if results.parts:
            parts.append("### `tests/gpu_first.sh`")
            parts.append(_markdown_table([PART_COLUMNS, *part_cells(results.parts)]))
        if tile_cells(results.tiles):
            parts.append("### Tiles of the GPU kernels, `python -m bench.tiles`")
            parts.append(_markdown_table([TILE_COLUMNS, *tile_cells(results.tiles)]))
        if results.rnns:
            parts.append("### Recurrent networks\n\n" + _RNNS)
            parts.append(_markdown_table([RNN_COLUMNS, *rnn_cells(results.rnns)]))
    return "\n\n".join(parts) + "\n"


def _label(network: str, layers: str) -> str:
    return f"{network}\n{layers}"


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    temporary = path.with_suffix(".tmp")
    figure.savefig(temporary, format="png", dpi=130, facecolor="white")
    temporary.replace(path)


def plot_speed_up(results: Results, path: Path) -> None:
    """Bars: how many times as fast as hypnettorch each architecture is."""
    architectures = _rows_by_architecture(results)
    figure = Figure(figsize=(9, 0.62 * len(architectures) + 1.6), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(_COMPACT)
    for i, (mode, conditions, label) in enumerate(_COMPACT):
        points = [
            (y + (i - 1.5) * height, speed_up(rows[mode, conditions]))
            for y, rows in enumerate(architectures.values())
            if (mode, conditions) in rows and speed_up(rows[mode, conditions]) is not None
        ]
        if not points:
            continue
        y, ratios = zip(*points, strict=True)
        axes.barh(y, [ratio - 1 for ratio in ratios], height, left=1, color=_BARS[i], label=label)
        for position, ratio in points:
            axes.text(max(ratio, 1) * 1.03, position, f"{ratio:.1f}×", va="center", fontsize=7)
    axes.axvline(1, color="0.3", linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20, 50], [f"{tick}×" for tick in (1, 2, 5, 10, 20, 50)])
    axes.minorticks_off()
    axes.margins(y=0.01)
    axes.set_xlim(left=min(0.95, axes.get_xlim()[0]))
    axes.set_yticks(range(len(architectures)), [_label(*key) for key in architectures], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as hypnettorch")
    axes.set_title("Generating all weights of a network for B conditions", fontsize=11)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(_COMPACT), frameon=False, fontsize=9)
    _save(figure, path)


def plot_times(results: Results, path: Path, conditions: int = 10) -> None:
    """Dots: the time of a forward for each contender, next to the time of the floor."""
    architectures = {
        key: rows[MODES[0], conditions]
        for key, rows in _rows_by_architecture(results).items()
        if (MODES[0], conditions) in rows
    }
    figure = Figure(figsize=(9, 0.42 * len(architectures) + 1.8), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(architectures.values()):
        times = [row["floor_ms"], *row["ms"].values()]
        axes.plot([min(times), max(times)], [y, y], color="0.88", linewidth=5, zorder=1)
        axes.plot(
            row["floor_ms"], y, "|", color="black", markersize=13, zorder=3, label="floor" if y == 0 else None
        )
        for name, color in _COLORS.items():
            if name in row["ms"]:
                axes.plot(row["ms"][name], y, "o", color=color, zorder=4, label=name if y == 0 else None)
    axes.set_xscale("log")
    axes.set_yticks(
        range(len(architectures)), [f"{network}  {layers}" for network, layers in architectures], fontsize=8
    )
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("ms")
    axes.set_title(f"Forward for {conditions} conditions: time of each contender, and the floor", fontsize=11)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    _save(figure, path)


def replace_section(text: str, section: str) -> str:
    """Put ``section`` between the markers of a Markdown text.

    Raises:
        ValueError: The text does not have each marker once, in order.
    """
    pattern = re.compile(re.escape(START) + ".*?" + re.escape(END), re.DOTALL)
    if text.count(START) != 1 or text.count(END) != 1 or not pattern.search(text):
        raise ValueError(f"the text needs {START} and, after it, {END}, once each")
    return pattern.sub(lambda _: f"{START}\n{section}\n{END}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write everything; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the stored results")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of README.md and docs/")
    options = parser.parse_args(arguments)
    paths = sorted(options.results.glob("*.json"))
    if not paths:
        parser.error(f"no results in {options.results}; python -m bench.run makes them")
    all_results = [(path.stem, Results.load(path)) for path in paths]
    docs = options.root / "docs"
    with_rows = [entry for entry in all_results if entry[1].rows]
    for name, results in with_rows:
        plot_speed_up(results, docs / "img" / f"speed-{name}.png")
        plot_times(results, docs / "img" / f"time-{name}.png")
    (docs / "benchmarks.md").write_text(docs_page(all_results))
    readme = options.root / "README.md"
    on_cpu = [entry for entry in with_rows if "driver" not in entry[1].environment] or with_rows
    name, newest = max(on_cpu, key=lambda entry: entry[1].environment["date"])
    plot = f"![Speed-up over hypnettorch](docs/img/speed-{name}.png)"
    section = f"{readme_section(newest)}\n\n{plot}\n\nAll rows: [docs/benchmarks.md](docs/benchmarks.md)."
    ensembles = [results for _, results in all_results if results.ensembles]
    if ensembles:
        newest = max(ensembles, key=lambda results: results.environment["date"])
        lines = "\n".join(f"- {line}" for line in ensemble_facts(newest.ensembles))
        section += (
            f"\n\n`forward_batched`, many sets of weights at once:\n\n{lines}\n\n{_environment_line(newest)}."
        )
    structured = [results for _, results in all_results if results.structured]
    if structured:
        newest = max(structured, key=lambda results: results.environment["date"])
        lines = "\n".join(f"- {line}" for line in structured_facts(newest.structured))
        section += f"\n\n`StructuredHMLP`:\n\n{lines}\n\n{_environment_line(newest)}."
    data = [results for _, results in all_results if results.data]
    if data:
        newest = max(data, key=lambda results: results.environment["date"])
        lines = "\n".join(f"- {line}" for line in data_facts(newest.data))
        section += f"\n\n{lines}\n\n{_environment_line(newest)}."
    readme.write_text(replace_section(readme.read_text(), section))
    print(f"Wrote {readme}, {docs / 'benchmarks.md'} and {2 * len(with_rows)} plots in {docs / 'img'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
