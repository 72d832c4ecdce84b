"""The results of serving, by the step and in a page, and of the server's soak, as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from speed_tables import Result, table, where

MIB = 1 << 20
MODES = ("dynamic", "steps")


def triton_steps(result: Result) -> str:
    """A row for each workload and load: images/s and latencies of both schedulers."""
    by_key = {(row["workload"], row["loop"], row["at"], row["mode"]): row for row in result["rows"]}
    rows = []
    for workload, loop, at in dict.fromkeys(key[:3] for key in by_key):
        dynamic, steps = (by_key[workload, loop, at, mode] for mode in MODES)
        rates = [f"{row['images_per_s']:,.1f}" for row in (dynamic, steps)]
        cells = [f"{row['p50_ms']:,.0f} / {row['p99_ms']:,.0f}" for row in (dynamic, steps)]
        ratios = [f"{steps[key] / dynamic[key]:.2f}×" for key in _latencies(result, workload)]
        wasted = [_wasted(row) if loop == "cancels" else "" for row in (dynamic, steps)]
        rows.append([_steps(result, workload), _load(loop, at), *rates, *cells, *ratios, *wasted])
    headings = ["Steps", "Load", "Images/s, dynamic", "steps", "p50 / p99 (ms), dynamic", "steps"]
    headings += ["p50, steps ÷ dynamic", "p99", "p99 of the fewest steps", "p99 of the most"]
    headings += ["Wasted steps, dynamic", "steps"]
    times = ", ".join(f"{size}: {ms:.2f}" for size, ms in result["step_times_ms"].items())
    share = result["cancel_share"]
    intro = (
        f"The dynamic batcher and the step scheduler; requests of one image with random steps, labels, guidance and "
        f"seeds over gRPC on the loopback address, clients on the same cores. Clients ask again when answered; "
        f"arrivals are by chance (Poisson), at a share of the dynamic batcher's images/s with the most clients. "
        f"Cancelled: {share:.0%} of the requests; wasted are the steps of requests that got no image, of all steps. "
        f"{result['threads']} threads: dynamic, of one instance; by the step, of an instance each. Queue delay "
        f"{result['max_queue_delay_us']} µs, medians of {result['rounds']} rounds of {result['seconds']:.0f} s in "
        f"turns. Load of the machine before: {result['machine']['load_before']:.1f}. {where(result)}, nvidia-pytriton "
        f"{result['versions']['nvidia-pytriton']}."
    )
    measured = (
        f"A step in milliseconds by the size of its batch, measured at start-up: {times}. From it follow "
        f"{result['places']} places of each instance."
    )
    return f"{intro}\n\n{table(headings, rows, text_columns=2)}\n\n{measured}\n"


def triton_cancel(result: Result) -> str:
    """How long a cancelled request still holds its place."""
    return (
        f"With all {result['places']} places of one instance taken by long requests, cancelling one of them gave a "
        f"request of one step its image after {result['from_cancel_to_image_ms']:.0f} ms; where a place was free, it "
        f"had it after {result['to_image_with_a_free_place_ms']:.0f} ms (medians of {result['trials']}). A step of so "
        f"many images takes {result['step_ms']:.1f} ms. {result['threads']} threads. {where(result)}.\n"
    )


def _latencies(result: Result, workload: str) -> list[str]:
    """Keys of a row."""
    first, *_, last = result["workloads"][workload]
    return ["p50_ms", "p99_ms", f"p99_ms_{first}", f"p99_ms_{last}"]


def _steps(result: Result, workload: str) -> str:
    *first, last = result["workloads"][workload]
    return f"{', '.join(map(str, first))} or {last}"


def _load(loop: str, at: float) -> str:
    if loop == "closed":
        return f"{at:.0f} clients"
    return f"arrivals at {at:.0%}" + (", some cancelled" if loop == "cancels" else "")


def _wasted(row: Result) -> str:
    return f"{row['wasted_image_steps']:,.0f} ({row['wasted_image_steps'] / max(1, row['image_steps']):.1%})"


def triton_soak(result: Result) -> str:
    """What was asked and became of it, and what the server held early and late."""
    counts, early, late = result["counts"], result["early"], result["late"]
    rows = [[what, f"{count:,}"] for what, count in sorted(counts.items(), key=lambda pair: -pair[1])]
    held = [
        [name, f"{early[key] / unit:,.0f}", f"{late[key] / unit:,.0f}"]
        for name, key, unit in (
            ("Memory of its own (MiB)", "memory_bytes", MIB),
            ("Shared memory (MiB)", "shared_bytes", MIB),
            ("Open files", "files", 1),
            ("Threads", "threads", 1),
            ("Processes", "processes", 1),
        )
    ]
    found = "; ".join(result["wrong"]) or "nothing grew, was lost or was wrong"
    if result["wrong"] and all(line.startswith("the end") for line in result["wrong"]):
        found = f"nothing grew, was lost or was wrong, but {found}"
    intro = (
        f"{result['minutes']:g} minutes, {result['clients']} clients that connect anew every few requests, seed "
        f"{result['seed']}: {found}. {result['image_steps']:,.0f} steps of an image, of which "
        f"{result['wasted_image_steps']:,.0f} were of requests that got none. {where(result)}."
    )
    first = table(["Requests", "Count"], rows)
    second = table(["The server's processes, when nobody asks", "After a tenth of the time", "At the end"], held)
    return f"{intro}\n\n{first}\n\n{second}\n"


def web(result: Result) -> str:
    """A page in Chromium beside the Python runtime."""
    headings = ["Threads", "Images at once", "Page (ms)", "Page, an image (ms)", "Python (ms)", "Page ÷ Python"]
    rows = [
        [
            str(row["threads"]),
            str(row["batch_size"]),
            f"{row['page_ms']:,.1f}",
            f"{row['page_ms'] / row['batch_size']:,.1f}",
            f"{row['python_ms']:,.1f}",
            f"{row['page_over_python']:.2f}×",
        ]
        for row in result["rows"]
    ]
    intro = (
        f"Artifact {result['artifact']} of `{result['run']}`, {result['num_inference_steps']} steps at "
        f"w={result['guidance']:g}, WebAssembly in Chromium {result['chromium']}, onnxruntime-web "
        f"{result['onnxruntime_web']}; medians of {result['rows'][0]['runs']} calls in turns with the Python runtime. "
        f"The first visit loads {result['loaded_bytes'] / 1e6:.1f} MB and is ready after "
        f"{result['ready_ms'] / 1e3:.1f} s. {where(result)}."
    )
    return f"{intro}\n\n{table(headings, rows, text_columns=1)}\n"


RENDERERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "triton-steps": triton_steps,
    "triton-cancel": triton_cancel,
    "triton-soak": triton_soak,
    "web": web,
}
"""As of speed_tables."""
