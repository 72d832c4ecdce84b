"""Whether two benchmark records can be compared, and which parts of them."""

from __future__ import annotations

from dashdeploy.bench.record.record import RECIPE_PLAN, TEACHER, Record


def obstacles(a: Record, b: Record) -> list[str]:
    """In what two records differ so that their figures cannot be compared; empty where they can."""
    differing = [f"recipe ({a.recipe} and {b.recipe})"] if a.recipe != b.recipe else []
    differing += a.plans[RECIPE_PLAN].differences(b.plans[RECIPE_PLAN])
    differing += [f"the teacher's {what}" for what in a.plan_of(TEACHER).differences(b.plan_of(TEACHER))] * (
        a.has_own_steps or b.has_own_steps
    )
    for what, one, two in (
        ("number of images", a.quality.num_images, b.quality.num_images),
        ("number of real images", a.quality.num_reference, b.quality.num_reference),
        ("file of real images", _reference(a), _reference(b)),
        ("images of each class", a.quality.class_counts, b.quality.class_counts),
    ):
        differing += [f"{what} ({one} and {two})"] if one != two else []
    if _features(a) != _features(b):
        differing.append(f"feature network ({_features(a)} and {_features(b)})")
    if other_machine(a, b):
        return differing
    if a.threads != b.threads:
        differing.append(f"threads ({a.threads} and {b.threads})")
    sizes = [{row.batch_size for row in r.latency} for r in (a, b)]
    if missing := sorted(sizes[0] - sizes[1]):
        differing.append(f"batch sizes (the second lacks {', '.join(map(str, missing))})")
    return differing


def _reference(record: Record) -> str:
    file = record.quality.reference
    if file is None:
        return "none"
    return f"{'the statistics of ' if file.is_images and file.published else ''}SHA-256 {file.sha256[:12]}…"


def other_machine(a: Record, b: Record) -> str:
    """In what the machines of two records differ; '' for the same machine. Kernel and versions may differ."""
    pairs = ((name, getattr(a.machine, name), getattr(b.machine, name)) for name in ("cpu", "cores", "gpu"))
    return "; ".join(f"{name}: {one or 'none'} and {two or 'none'}" for name, one, two in pairs if one != two)


def other_gap(a: Record, b: Record) -> str:
    """Why the guidance fidelity of two records cannot be compared; '' where it can."""
    if a.models[TEACHER].sha256 != b.models[TEACHER].sha256:
        return "the teachers differ"
    one, two = a.fidelity, b.fidelity
    if (one.num_pairs, one.guidance) != (two.num_pairs, two.guidance):
        return f"{one.num_pairs} draws at {one.guidance}, and {two.num_pairs} at {two.guidance}"
    return "the seeds of its draws differ" if a.seed != b.seed else ""


def other_response(a: Record, b: Record) -> str:
    """Why the responses to guidance of two records cannot be compared; '' where they can, or one has none."""
    if a.response is None or b.response is None:
        return ""
    one, two = ((r.base, r.prediction, r.num_draws, r.path_steps) for r in (a.response, b.response))
    names = ("scale that they count from", "prediction", "draws", "steps of the teacher")
    pairs = ((name, x, y) for name, x, y in zip(names, one, two, strict=True) if x != y)
    return "; ".join(f"{name}: {x} and {y}" for name, x, y in pairs)


def model_notes(a: Record, b: Record) -> list[str]:
    """Which models only one of the records has."""
    only = (
        ("first", [k for k in a.models if k not in b.models]),
        ("second", [k for k in b.models if k not in a.models]),
    )
    return [f"Only the {which} has {', '.join(keys)}." for which, keys in only if keys]


def version_notes(a: Record, b: Record) -> list[str]:
    """Which packages had another version."""
    names = sorted(a.versions.keys() | b.versions.keys())
    both = ((n, a.versions.get(n, "none"), b.versions.get(n, "none")) for n in names)
    changed = [f"{name} {one} → {two}" for name, one, two in both if one != two]
    return [f"Versions differ: {', '.join(changed)}."] if changed else []


def _features(record: Record) -> str:
    features = record.quality.features
    return f"{features.name} {features.sha256[:12]}" if features else "none"
