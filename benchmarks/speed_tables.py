"""The results of the benchmarks, other than records of `dashdeploy bench`, as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dashdeploy.bench.record.intervals import ratio_interval
from dashdeploy.bench.record.parts import Estimate
from dashdeploy.bench.record.record import SOLVER_LABELS
from dashdeploy.bench.report.columns import NONE
from dashdeploy.compare import summary
from dashdeploy.compare import tables as compare_tables
from dashdeploy.report.cells import MISSING

Result = dict[str, Any]
WAYS = {
    "plain": "plain loop",
    "ours": "dashdeploy",
    "live teacher": "dashdeploy, live teacher",
    "bank": "dashdeploy, teacher bank",
}
NAMES = {"onnx-cpu": "onnx-cpu (whole sampler)", "onnx-cpu-int8": "onnx-cpu-int8 (whole sampler)"}


def table(headings: list[str], rows: list[list[str]], *, text_columns: int = 1) -> str:
    """A GitHub table; columns after the first ones are numbers."""
    marks = [":--" if i < text_columns else "--:" for i in range(len(headings))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, marks, *rows))


def where(result: Result) -> str:
    """The machine and the versions in one line."""
    machine, versions = result["machine"], result["versions"]
    shown = ("torch", "onnxruntime", "openvino", "nncf", "tensorrt", "tensorrt-rtx-cu13")
    named = ", ".join(f"{name} {versions[name]}" for name in shown if name in versions)
    return f"{machine.get('gpu') or machine['cpu']}, {machine['cores']} cores; {named}"


def cpu_artifacts(result: Result) -> str:
    """Rows: what draws; columns: milliseconds with the ratio to the best of the three bases, by batch."""
    batches = list(dict.fromkeys(row["batch_size"] for row in result["rows"]))
    by_key = {(row["what"], row["batch_size"]): row for row in result["rows"]}
    rows = []
    for what in dict.fromkeys(row["what"] for row in result["rows"]):
        cells = [NAMES.get(what, what)]
        for batch in batches:
            row = by_key[what, batch]
            cells.append(f"{row['median_ms']:,.1f} ({over_base(row, by_key[row['best_base'], batch])})")
        rows.append(cells)
    runs = result["rows"][0]["runs"]
    intro = (
        f"{result['num_inference_steps']} guided DDIM steps, milliseconds (median of {runs} runs in turns; in brackets "
        f"the best of the first three ÷ this; none: the 95 % interval of the ratio holds 1), {result['threads']} "
        f"threads. {where(result)}."
    )
    return f"{intro}\n\n{table(['', *(f'Batch {b}' for b in batches)], rows)}\n"


def over_base(row: Result, base: Result) -> str:
    """The base's median over this row's, as in ``1.44×``; none where the interval of the ratio holds 1."""
    low, high = ratio_interval(*(_median(one) for one in (row, base)))
    noise = row is not base and low <= 1 <= high
    return NONE if noise else f"{row['best_base_over_this']:.2f}×"


def _median(row: Result) -> Estimate:
    return Estimate(value=row["median_ms"], low=row["low_ms"], high=row["high_ms"])


def sampler_forms(result: Result) -> str:
    """Loop, unrolled, and the step graph fed back."""
    batches = list(dict.fromkeys(row["batch_size"] for row in result["rows"]))
    by_key = {(row["form"], row["batch_size"]): row["median_ms"] for row in result["rows"]}
    rows = []
    for form in dict.fromkeys(row["form"] for row in result["rows"]):
        made = result["forms"].get(form)
        sizes = [f"{made['bytes'] / 1e6:.2f}", f"{made['make_s']:.2f}", f"{made['load_s']:.2f}"] if made else ["–"] * 3
        rows.append([form, *sizes, *(f"{by_key[form, b]:,.1f}" for b in batches)])
    headings = ["Form", "File (MB)", "Made in (s)", "Loaded in (s)", *(f"Batch {b} (ms)" for b in batches)]
    threads, repeats = result["threads"], result["repeats"]
    intro = (
        f"{result['num_inference_steps']} steps, {threads} threads, median of {repeats} runs in turns. {where(result)}."
    )
    return f"{intro}\n\n{table(headings, rows)}\n"


def int8_tradeoff(result: Result) -> str:
    """A row for float32 and for each number of layers left in float."""
    base = result["rows"][0]
    rows = []
    for row in result["rows"]:
        gap = [f"{row['gap_error']:.3f}", f"{row['gap_cosine']:.3f}"] if "gap_error" in row else ["0", "1"]
        fids = [f"{row[k]:.3f} ({100 * (row[k] / base[k] - 1):+.1f} %)" for k in ("fid_w1", "fid_w2", "fid_w4")]
        rows.append([row["what"], str(row["int8_layers"]), *gap, *fids, f"{row['float32_over_this']:.2f}×"])
    headings = ["", "int8 layers", "Gap error", "Gap cosine", "FID, w=1", "FID, w=2", "FID, w=4", "float32 ÷ this"]
    causes = "; ".join(f"{what}: {value:.3f}" for what, value in result["gap_error_by_cause"].items())
    intro = (
        f"{result['num_images']} images each from the same noise, one sampling seed; 50 steps at batch "
        f"{result['batch_size']}, {result['threads']} threads. {where(result)}. Gap error by cause: {causes}."
    )
    return f"{intro}\n\n{table(headings, rows)}\n"


def triton(result: Result) -> str:
    """A row for each number of clients: images/s, latency and batch with dynamic batching on and off."""
    by_key = {(row["clients"], row["batching"]): row for row in result["rows"]}
    rows = []
    for clients in dict.fromkeys(row["clients"] for row in result["rows"]):
        on, off = by_key[clients, "on"], by_key[clients, "off"]
        latencies = [f"{row['p50_ms']:,.0f} / {row['p99_ms']:,.0f}" for row in (on, off)]
        rates = [f"{row['images_per_s']:,.1f}" for row in (on, off)]
        ratio = on["images_per_s"] / off["images_per_s"]
        rows.append([str(clients), *rates, f"{ratio:.2f}×", *latencies, f"{on['images_per_batch']:.1f}"])
    headings = ["Clients", "Images/s, on", "off", "on ÷ off", "p50 / p99 (ms), on", "off", "Images per batch, on"]
    intro = (
        f"Dynamic batching on and off, {result['num_inference_steps']} guided steps, random labels, guidance and seeds "
        f"over gRPC on the loopback address, clients on the same cores. {result['threads']} threads, queue delay "
        f"{result['max_queue_delay_us']} µs, medians of {result['rounds']} rounds of {result['seconds']:g} s in turns. "
        f"Load of the machine before: {result['machine']['load_before']:.1f}. "
        f"{where(result)}, nvidia-pytriton {result['versions']['nvidia-pytriton']}."
    )
    return f"{intro}\n\n{table(headings, rows)}\n"


def cpp_runtime(result: Result) -> str:
    """A row for each artifact and batch: both runtimes by the graph that they take by themselves, and step by step."""
    rows = []
    for row in result["rows"]:
        times = [f"{row[k]:,.1f}" for k in ("cpp_ms", "python_ms", "cpp_step_ms", "python_step_ms")]
        ratios = [f"{row[k]:.2f}×" for k in ("python_over_cpp", "python_step_over_cpp_step")]
        outside = f"{100 * row['outside_backend']:.2f}"
        cells = [times[0], times[1], ratios[0], times[2], times[3], ratios[1]]
        rows.append([row["artifact"], str(row["batch_size"]), row["python_graph"], *cells, outside])
    headings = ["Artifact", "Batch", "Graph", "C++ (ms)", "Python (ms)", "Python ÷ C++"]
    headings += ["C++ step by step", "Python step by step", "Python ÷ C++", "C++ loop outside the backend (%)"]
    intro = (
        f"{result['num_inference_steps']} guided DDIM steps, {result['threads']} threads, medians of runs in turns. "
        f"{where(result)}."
    )
    return f"{intro}\n\n{table(headings, rows)}\n"


def front(result: Result) -> str:
    """A row for each guidance and number of steps: FID, distance to the exact solution and time of each solver."""
    solvers = list(dict.fromkeys(row["solver"] for row in result["rows"]))
    by_key = {(row["guidance"], row["num_inference_steps"], row["solver"]): row for row in result["rows"]}
    rows = []
    for scale, steps in dict.fromkeys(key[:2] for key in by_key):
        points = [by_key[scale, steps, solver] for solver in solvers]
        fids = [f"{row['fid']:.3f} [{row['fid_low']:.3f}, {row['fid_high']:.3f}]" for row in points]
        distances = [f"{row['distance']:.3f} ({row['distance_fine_end']:.3f})" for row in points]
        times = [f"{row['median_ms']:,.0f} ({row['graph']})" for row in points]
        rows.append([scale, str(steps), *fids, *distances, *times])
    names = [SOLVER_LABELS[solver] for solver in solvers]
    headings = ["Guidance", "Steps", *(f"FID, {n}" for n in names), *(f"Distance, {n}" for n in names)]
    headings += [f"{n} (ms)" for n in names]
    exact = result["exact"]
    intro = (
        f"`{result['artifact']}` of the run `{result['run']}`. FID: of {result['num_images']} images, with its 95 % "
        f"interval. Distance: root mean square per pixel, images in [-1, 1], to {exact['num_inference_steps']} steps "
        f"of {SOLVER_LABELS[exact['solver']]} from the same noise; in brackets with the last step, to the clean image, "
        f"cut into small ones. Time: a batch of {result['batch_size']}, {result['threads']} threads, median of "
        f"{result['rows'][0]['runs']} runs in turns; in brackets the graph that ran. Load of the machine before: "
        f"{result['machine']['load_before']:.1f}. {where(result)}."
    )
    return f"{intro}\n\n{table(headings, rows)}\n"


def train_speed(result: Result) -> str:
    """A row for each case, stage, precision and way to train."""
    rows = []
    for row in result["rows"]:
        arithmetic = f"{row['over_arithmetic']:.2f}×" if "over_arithmetic" in row else MISSING
        times = [f"{row['ms']:,.1f}", f"{row['images_per_s']:,.1f}", f"{row['over_plain']:.2f}×", arithmetic]
        rows.append([row["case"], row["stage"], row["precision"], WAYS[row["way"]], str(row["batch_size"]), *times])
    headings = ["Models", "Stage", "Precision", "Way", "Batch", "Step (ms)", "Images/s", "Plain ÷ this"]
    sizes = ", ".join(
        f"{name} {case['teacher_parameters'] / 1e6:.2f} M → {case['student_parameters'] / 1e6:.2f} M parameters, "
        f"a bank's draw used {case['bank_uses']:.1f} times, median of {case['repeats']} steps"
        for name, case in result["cases"].items()
    )
    intro = (
        f"Steps in turns in one process: {sizes}. A bank's step pays its share of the teacher's work. "
        f"{result['threads']} threads. Load of the machine before: {result['machine']['load_before']:.1f}. "
        f"{where(result)}."
    )
    return f"{intro}\n\n{table([*headings, 'Over its arithmetic'], rows, text_columns=4)}\n"


def inception_fid(result: Result) -> str:
    """Both figures and how far apart they and the features are."""
    rows = [
        ["FID, dashdeploy", f"{result['fid']:.6f}"],
        ["FID, torch-fidelity", f"{result['torch_fidelity_fid']:.6f}"],
        ["difference of the two", f"{result['fid_difference']:.1e}"],
        ["largest difference of a feature", f"{result['feature_max_difference']:.1e}"],
        ["mean of a feature", f"{result['feature_mean']:.3f}"],
    ]
    intro = (
        f"Two sets of {result['num_images']} images, one file of random weights in the published layout. "
        f"{where(result)}, torch-fidelity {result['versions']['torch-fidelity']}."
    )
    return f"{intro}\n\n{table(['', ''], rows)}\n"


def paper_cost(result: Result) -> str:
    """A row for each stage: images, operations, and hours on each device."""
    devices = list(result["devices"])
    rows = []
    for row in result["rows"]:
        hours = [f"{row['hours'][name]:,.0f}" for name in devices]
        rows.append([row["stage"], f"{row['images'] / 1e6:.2f} M", f"{row['flop'] / 1e15:,.0f}", *hours])
    rates = "; ".join(f"{name}: {device['why']}" for name, device in result["devices"].items())
    intro = f"Estimated from floating-point operations, not measured. {rates}."
    return f"{intro}\n\n{table(['Stage', 'Images', 'PFLOP', *(f'{name} (h)' for name in devices)], rows)}\n"


def dit_xl_cost(result: Result) -> str:
    """A row for each stage: operations, and hours on each device; and the memory."""
    devices = list(result["hours"])
    rows = [
        [stage, f"{flop / 1e15:,.0f}", *(f"{result['hours'][name][stage]:,.1f}" for name in devices)]
        for stage, flop in result["flop"].items()
    ]
    sizes = " and ".join(f"{what} of {count / 1e6:,.0f} M parameters" for what, count in result["parameters"].items())
    memory = "; ".join(f"{what} {gib:.1f} GiB" for what, gib in result["memory_gib"].items())
    intro = (
        f"Estimated from floating-point operations, not measured: {sizes}, {result['images_seen'] / 1e6:.1f} M images "
        f"seen, {result['share_of_peak']:.0%} of a device's bf16 peak. Memory without activations: {memory}."
    )
    return f"{intro}\n\n{table(['Stage', 'PFLOP', *(f'{name} (h)' for name in devices)], rows)}\n"


def families(result: Result) -> str:
    """A row for each family and network: the difference from diffusers, by number of steps."""
    steps = list(result["rows"][0]["difference"])
    rows = [
        [row["family"], row["scheduler"], row["network"], *(f"{row['difference'][n]:.1e}" for n in steps)]
        for row in result["rows"]
    ]
    intro = (
        f"Largest difference of a value over the largest value, after all steps at w = {result['guidance']:g}, from "
        f"the same noise; networks with random weights. Measured on {where(result)}."
    )
    heads = ["Family", "diffusers' scheduler", "Network", *(f"{n} steps" for n in steps)]
    return f"{intro}\n\n{table(heads, rows)}\n"


def autoencoder(result: Result) -> str:
    """How far reconstructions are from held-out images."""
    found, how = result["figures"], result["training"]
    rows = [
        ["mean absolute error of a pixel (images span 2)", f"{found['mean_absolute_error']:.4f}"],
        ["PSNR (dB)", f"{found['psnr_db']:.1f}"],
        ["FID of reconstructions to the training images", f"{found['fid_of_reconstructions']:.3f}"],
        ["FID of the held-out images themselves", f"{found['fid_of_held_out_images']:.3f}"],
    ]
    intro = (
        f"{result['parameters']:,} parameters, {result['file_bytes'] / 1e6:.2f} MB; {how['steps']:,} steps of "
        f"{how['batch_size']} images; {found['num_images']:,} held-out images. Measured on {where(result)}."
    )
    return f"{intro}\n\n{table(['Figure', 'Value'], rows)}\n"


def comparison(result: Result) -> str:
    """A comparison's compare.json: every variant, and the share of each term."""
    settings = result["comparison"]
    seeds = ", ".join(map(str, settings["seeds"]))
    several = "seeds" if len(settings["seeds"]) > 1 else "seed"
    intro = f"Recipe `{settings['recipe']}`, {several} {seeds}; measured on {where(result)}."
    return f"{intro} {compare_tables.markdown(summary.parse(result))}"


def mutations(result: Result) -> str:
    """A row for each kind of broken input, and all of them together."""
    kinds = result["kinds"]
    good = ("refused", "accepted", "regression")
    rows = []
    for name, counts in kinds.items():
        passed = counts.get("accepted", 0) + counts.get("regression", 0)
        failed = counts["cases"] - sum(counts.get(key, 0) for key in good)
        rows.append([name, f"{counts['cases']:,}", f"{counts.get('refused', 0):,}", f"{passed:,}", f"{failed:,}"])
        rows[-1].append(f"{counts['slowest_s']:.1f}")
    sums = [sum(int(row[i].replace(",", "")) for row in rows) for i in (1, 2, 3, 4)]
    slowest = max(counts["slowest_s"] for counts in kinds.values())
    rows.append(["all", *(f"{total:,}" for total in sums), f"{slowest:.1f}"])
    headings = ["What was broken", "Cases", "Refused in one line", "Taken", "Failed", "Slowest (s)"]
    return f"Seed {result['seed']}; {where(result)}.\n\n{table(headings, rows)}\n"


def kills(result: Result) -> str:
    """A row for each command that was killed at every change that it makes, then the random kills and the pairs."""
    tallies = {f"`{name}`, before each change": t for name, t in result["crash_points"].items()}
    tallies["any command, at a random time"] = result["random"]
    rows = [[name, f"{t['kills']:,}", f"{t['identical']:,}", str(len(t["wrong"]))] for name, t in tallies.items()]
    sums = [sum(t["kills"] for t in tallies.values()), sum(t["identical"] for t in tallies.values())]
    rows.append(["all kills", *(f"{total:,}" for total in sums), str(sum(len(t["wrong"]) for t in tallies.values()))])
    pairs = result["two_at_once"]
    rows.append(["two commands at once", f"{pairs['points']:,}", f"{pairs['identical']:,}", str(len(pairs["wrong"]))])
    return f"{where(result)}\n\n{table(['What', 'Times', 'Came out right', 'Wrong'], rows)}\n"


RENDERERS: dict[str, Callable[[Result], str]] = {
    "cpu-artifacts": cpu_artifacts,
    "sampler-forms": sampler_forms,
    "int8-tradeoff": int8_tradeoff,
    "triton": triton,
    "cpp-runtime": cpp_runtime,
    "front": front,
    "train-speed": train_speed,
    "inception-fid": inception_fid,
    "paper-cost": paper_cost,
    "dit-xl-cost": dit_xl_cost,
    "families": families,
    "autoencoder-": autoencoder,
    "torture-mutations": mutations,
    "torture-kills": kills,
    "ablation-": comparison,
    "few-": comparison,
}
"""How a result's file name begins -> its renderer."""
