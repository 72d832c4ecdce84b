"""The parts of a benchmark record: a class for each kind of row, with units.

A figure that could not be computed is NaN in Python and null in the file, which is strict JSON.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict

from dashdeploy.artifact import EngineLayers, GraphName
from dashdeploy.figures import DecoderCheck, GapRow, GateFigures, Number, Parity, SamplingCheck
from dashdeploy.recipe.schema import Solver

RECIPE_PLAN = "recipe"
"""Key of the plan that the recipe's sampling section gives. A model's own plan has the model's key."""


class Part(BaseModel):
    """Base of every part: frozen, and no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Machine(Part):
    """Where it was measured; gpu None: there was none."""

    cpu: str
    cores: int
    memory_gib: Number
    platform: str
    gpu: str | None = None


class Settings(Part):
    """The recipe's sections as they were resolved, and the sampler's timesteps, largest first."""

    sampling: dict[str, Any]
    latency: dict[str, Any]
    quality: dict[str, Any]
    fidelity: dict[str, Any]
    timesteps: tuple[int, ...]


class PlanInfo(Part):
    """A sampling plan.

    Attributes:
        guidance: its label in tables.
        timesteps: largest first.
        weights: the guidance scale of each step.
    """

    guidance: str
    timesteps: tuple[int, ...]
    weights: tuple[float, ...]
    clip_sample: bool
    solver: Solver

    def differences(self, other: PlanInfo) -> list[str]:
        """In what two plans differ; empty where times of both can be compared."""
        differing = []
        if len(self.timesteps) != len(other.timesteps):
            differing.append(f"steps ({len(self.timesteps)} and {len(other.timesteps)})")
        elif self.timesteps != other.timesteps:
            differing.append("timesteps")
        if self.guidance != other.guidance:
            differing.append(f"guidance ({self.guidance} and {other.guidance})")
        elif len(self.weights) == len(other.weights) and self.weights != other.weights:
            differing.append(f"guidance (both {self.guidance}, with other scales at some steps)")
        if self.clip_sample != other.clip_sample:
            differing.append("clip_sample")
        if self.solver != other.solver:
            differing.append(f"solver ({self.solver} and {other.solver})")
        return differing


class ModelInfo(Part):
    """One measured model in one runtime. None or NaN: does not apply to it, or was not measured.

    Attributes:
        file_bytes: size of its weights; of an artifact, size of the graph that makes a guided prediction.
        artifact_bytes: size of all graphs of an artifact.
        peak_rss_mib: resident memory of a process that runs `graph` at the largest batch. One for ONNX Runtime or
            OpenVINO has loaded its runtime and numpy only; any other torch too.
        precision: fp32, fp16, bf16 or int8.
        graph: what runs the whole sampler at its plan: one graph for all steps (sampler), a graph for a step
            (step), or a graph for a guided prediction with the update outside (guided).
        plan: key of the plan that its images are drawn with at the recipe's guidance: the recipe's, but of the teacher
            of a few-step student.
        evaluations: of its network for an image with that plan: two a step of two branches, of which a step without
            guidance runs one where it can; None: a record of before they were counted.
        load_ms: time to open it until that graph is ready; the median over fresh processes that have imported the
            runtime and have the files in the page cache.
        first_call_ms: time of the first image after that, all steps; the median over the same processes.
        build_s: seconds that building all of its engines took.
        build_peak_mib: the most memory that building one of its engines took.
    """

    label: str
    runtime: str
    parameters: int | None
    file_bytes: int | None
    artifact_bytes: int | None
    sha256: str | None
    peak_rss_mib: Number
    precision: str | None
    graph: GraphName | None
    plan: str = RECIPE_PLAN
    evaluations: int | None = None
    load_ms: Number
    first_call_ms: Number
    build_s: Number
    build_peak_mib: Number


class Estimate(Part):
    """A figure, and the low and high end of its 95 % confidence interval, NaN where none was computed."""

    value: Number
    low: Number
    high: Number


class NeighbourFigures(Part):
    """See `metrics.neighbours.Neighbours`. They depend on the numbers of images; NaN where there are too few."""

    precision: Number
    recall: Number
    density: Number
    coverage: Number


class SeedFigures(Part):
    """The figures of one sampling seed's images; see QualityRow."""

    seed: int
    fid: Number
    kid: Number
    fid_to_teacher: Number | None
    accuracy: Number
    pixel_distance: Number | None = None
    feature_distance: Number | None = None
    confidence: Number = math.nan
    neighbours: NeighbourFigures | None = None


class QualityRow(Part):
    """Distances and accuracy of one model's images at one guidance.

    Attributes:
        w: the guidance scale; None: guidance that changes over t.
        fid: distance of num_images images to the real ones; the mean over the sampling seeds. Its interval is of the
            expectation at that number of images, and the real images are taken as given.
        kid: distance of all images to the real ones. Its interval is of the distance of the distributions.
        fid_to_teacher: distance to the teacher's images at the same guidance and of the same noise; None: the teacher
            has none there.
        accuracy: share of the images that a classifier takes for their class; NaN without a classifier of the data's
            classes.
        by_seed: the same of each sampling seed's images.
        pixel_distance: root mean square of the difference of a pixel to the teacher's image of the same noise and
            guidance; pixels span 2. None: as fid_to_teacher. The mean over the sampling seeds, as those that follow.
        feature_distance: √(Σ‖φ − φ_T‖²/Σ‖φ_T‖²) over the features φ of the images, φ_T of the teacher's.
        confidence: mean probability that the classifier gives the class of an image; NaN as accuracy.
        neighbours: what the nearest neighbours say of num_images images and the real ones, the mean over the sampling
            seeds; None: a record of before it was measured.
    """

    model: str
    guidance: str
    w: float | None
    fid: Estimate
    kid: Estimate
    fid_to_teacher: Estimate | None
    accuracy: Number
    by_seed: tuple[SeedFigures, ...]
    pixel_distance: Number | None = None
    feature_distance: Number | None = None
    confidence: Number = math.nan
    neighbours: NeighbourFigures | None = None


class Features(Part):
    """The network in whose features distances are computed.

    held_out_accuracy: of a classifier that was fitted to the recipe's images; None: of any other network.
    """

    name: str
    sha256: str
    held_out_accuracy: float | None = None

    @property
    def title(self) -> str:
        """What pages call it."""
        if self.held_out_accuracy is None:
            return self.name
        return f"{self.name} (held-out accuracy {100 * self.held_out_accuracy:.1f} %)"


class ReferenceFile(Part):
    """The file that samples were compared with, in place of the recipe's own images.

    is_images: it holds images; false: published statistics, of which only FID can be computed.
    published: FID is against published statistics that it holds, whether it has images or not; None: as is_images says,
        in records of versions that read only one of the two.
    """

    file: str
    sha256: str
    is_images: bool
    published: bool | None = None


class Quality(Part):
    """Quality of all models.

    Attributes:
        features: None: none were wanted, and there are no rows.
        num_images: of each model at each guidance and sampling seed.
        num_reference: real images; 0: not known, of published statistics.
        class_counts: images of each class among the num_images.
        seeds: of the sampling.
        reference: None: the real images are the recipe's.
    """

    features: Features | None
    num_images: int
    num_reference: int
    class_counts: tuple[int, ...]
    seeds: tuple[int, ...]
    rows: tuple[QualityRow, ...]
    reference: ReferenceFile | None = None

    @property
    def compared_with(self) -> str:
        """The real images in words."""
        if self.reference is None:
            return f"{self.num_reference} real ones"
        if self.reference.is_images and self.reference.published:
            of_images = f"and, for all but FID, its {self.num_reference} images"
            return f"the statistics of {self.reference.file} (SHA-256 {self.reference.sha256[:12]}…) {of_images}"
        if self.reference.is_images:
            return f"the {self.num_reference} of {self.reference.file} (SHA-256 {self.reference.sha256[:12]}…)"
        return f"the statistics of {self.reference.file} (SHA-256 {self.reference.sha256[:12]}…)"


class FidelityRow(Part):
    """One student's guidance fidelity over all t, and in each range of t."""

    model: str
    overall: GapRow
    bins: tuple[GapRow, ...]


class Fidelity(Part):
    """guidance: the label of the scale of the guided prediction; num_pairs: held-out noisy images."""

    guidance: str
    num_pairs: int
    rows: tuple[FidelityRow, ...]


class TrainingPoint(Part):
    """One line of metrics.jsonl. Each name in `terms` is also a key; there can be more keys (grad_norm)."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Number]

    step: int
    loss: Number
    terms: tuple[str, ...]
    learning_rate: Number
    images_per_s: Number

    def value(self, term: str) -> float:
        """A further figure by its name; NaN where the line has none."""
        return self.__pydantic_extra__.get(term, math.nan)


class BaselineRow(Part):
    """A control: FID by guidance label."""

    name: str
    label: str
    fid: dict[str, Number]
    energy_cosine: Number
    rho: Number


class Baselines(Part):
    """Controls that were measured under the same conditions.

    recovery, by guidance label: (FID of the control from scratch − FID of the student) / (FID of the control from
    scratch − FID of the teacher).
    """

    source: str
    rows: tuple[BaselineRow, ...]
    recovery: dict[str, Number]


class ArtifactChecks(Part):
    """What the export measured of one artifact before it was written, from its manifest.

    Attributes:
        verified: where it was checked if not in the artifact's runtime; '' otherwise.
        parity: of a float32 artifact, with the worst row only.
        gate: of a lower precision.
        sampling: of the cond, step and sampler graphs that it has.
        float_layers: layers of an int8 artifact that were left in float; None: it is not int8.
        layers: types of the layers of its engines, by graph.
        decoder: of an artifact that decodes latents.
    """

    model: str
    precision: str
    verified: str
    parity: Parity | None
    gate: GateFigures | None
    sampling: tuple[SamplingCheck, ...]
    float_layers: tuple[str, ...] | None
    layers: dict[GraphName, EngineLayers]
    decoder: DecoderCheck | None = None
