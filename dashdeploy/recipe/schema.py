"""The recipe's schema: every key, its default and its meaning. Defaults are given here and nowhere else."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StrictBool, ValidationInfo, field_validator, model_validator

from dashdeploy.fields import (
    DISTINCT,
    REAL,
    WHOLE,
    Batch,
    Coefficient,
    Count,
    Model,
    Name,
    Number,
    Positive,
    Seed,
    Text,
    Threads,
    may_extend,
)
from dashdeploy.objectives import AnyObjective
from dashdeploy.objectives.dash import Dash
from dashdeploy.objectives.distribution_matching import DistributionMatching
from dashdeploy.recipe.architecture import Architecture, DiT
from dashdeploy.recipe.benchmark import Bench
from dashdeploy.recipe.benchmark import Latency as Latency
from dashdeploy.recipe.benchmark import Quality as Quality
from dashdeploy.recipe.data import Data
from dashdeploy.recipe.sampling import Guidance as Guidance
from dashdeploy.recipe.sampling import GuidanceInterval as GuidanceInterval
from dashdeploy.recipe.sampling import Sampling, extremes
from dashdeploy.recipe.sampling import Solver as Solver
from dashdeploy.recipe.sampling import Tag as Tag
from dashdeploy.recipe.student import Prediction as Prediction
from dashdeploy.recipe.student import Student

Precision = Literal["fp32", "bf16", "fp16"]
Tracker = Literal["aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"]
"""As accelerate's LoggerType names them."""
LossWeightKind = Literal[
    "published", "tirt", "min_snr_x0", "uniform", "min_snr_eps", "min_snr_v", "uncertainty", "loss_ema"
]
LEARNED_WEIGHTS = {"published": "tirt", "tirt": "tirt", "uncertainty": "uncertainty", "loss_ema": "loss_ema"}
"""Kinds that learn a λ, and the name of this λ: kinds of one name can take each other's."""
SNR_WEIGHTS = ("published", "tirt", "min_snr_x0", "min_snr_v")
"""Kinds that go to 0 with the SNR: of four steps the noisiest gets less than a three-thousandth of the mean weight."""


class NoiseSchedule(Model):
    """The forward process: betas over T timesteps."""

    kind: Literal["linear", "cosine"] = "linear"
    num_train_timesteps: Annotated[int, Field(ge=2, le=100_000), WHOLE] = Field(1000, description="T")
    beta_start: Number = Field(1e-4, gt=0, lt=1, description="linear: first beta. cosine: lower bound of beta")
    beta_end: Number = Field(0.02, gt=0, lt=1, description="linear: last beta. cosine: upper bound of beta")

    @model_validator(mode="after")
    def _ordered(self) -> NoiseSchedule:
        if self.beta_end <= self.beta_start:
            raise ValueError(f"beta_end ({self.beta_end}) must exceed beta_start ({self.beta_start})")
        return self


class TimestepWeights(Model):
    """How the loss of each timestep is weighted (arXiv:2606.00798 Eq. 2 and its alternatives)."""

    kind: LossWeightKind = "uniform"
    gamma: Number = Field(5.0, gt=0, description="SNR clip of tirt, published and min_snr_*")
    alpha: Number = Field(0.5, ge=-10, le=10, description="exponent of loss_ema")


class PowerEma(Model):
    """A power-function average (arXiv:2312.02696 Eq. 2): at every step its width is a share of the training so far."""

    kind: Literal["power"] = "power"
    std: Number = Field(0.1, gt=0, lt=0.2887, description="relative standard deviation σ_rel of its profile")


class Training(Model):
    """What every training run shares."""

    steps: Positive = Field(1000, description="optimizer steps")
    batch_size: Batch = Field(128, description="images a step over all processes and accumulation")
    gradient_accumulation: Batch = Field(1, description="micro-batches a step; divides batch_size")
    learning_rate: Number = Field(2e-4, gt=0, description="the highest, reached after the warm-up")
    lr_schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="after the warm-up: down to 0 along half a cosine, or constant"
    )
    warmup_steps: Count = Field(
        default_factory=lambda known: min(100, known.get("steps", 100)),
        description="steps over which the learning rate rises; default: 100, or all of fewer",
    )
    weight_decay: Coefficient = Field(0.0, description="of AdamW")
    gradient_clip: Number = Field(1.0, gt=0, description="largest gradient norm")
    ema_decay: Annotated[float, Field(ge=0, lt=1), REAL] | PowerEma = Field(
        0.999,
        description="of the average that is kept. A number: the decay that a warm-up ends at; at step n it is "
        "min(ema_decay, n / (9 + n)), as in diffusers. Or {kind: power, std: …}",
    )
    timestep_weights: TimestepWeights = TimestepWeights()
    precision: Precision = Field(
        "fp32", description="bf16, fp16: mixed precision; the weights stay in float32. fp16 needs a GPU"
    )
    threads: Threads | None = Field(None, description="CPU threads of torch; null: torch's own choice")
    checkpoint_every: Positive = Field(500, description="steps between checkpoints")
    log_every: Positive = Field(20, description="steps between lines of metrics.jsonl")
    tracker: Tracker | None = Field(
        None, description="where metrics are logged too, by accelerate's tracker of that name; null: metrics.jsonl only"
    )

    @model_validator(mode="after")
    def _fits_its_steps(self) -> Training:
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} exceeds steps {self.steps}; set it lower too")
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of gradient_accumulation {self.gradient_accumulation}"
            )
        return self


class Teach(Training):
    """How to train the teacher: eps-prediction with per-sample label dropout."""

    architecture: Architecture = Field(Architecture(), description="a UNet2DModel in full")
    dit: DiT | None = Field(None, description="a DiTTransformer2DModel in full, in place of a UNet")
    label_dropout: Number = Field(0.1, ge=0, lt=1, description="chance that a sample's label becomes the null class")
    save_dtype: Literal["float32", "float16"] = Field("float32", description="how the weights are stored")

    @model_validator(mode="after")
    def _is_one_network(self) -> Teach:
        if self.dit is not None and "architecture" in self.model_fields_set and self.architecture != Architecture():
            raise ValueError("give architecture (a UNet) or dit, and not both")
        return self


class Teacher(Model):
    """A ready teacher. Leave this section out to train one as the `teach` section says."""

    path: Text | None = Field(
        None, description="folder in diffusers format, relative to this file or to the recipes that ship"
    )
    null_class: Count | None = Field(
        None, description="row of its label embedding that is the null class (no label); null: the last"
    )
    labels: Annotated[tuple[Count, ...], Field(min_length=1), DISTINCT] | None = Field(
        None,
        description="row of its label embedding for each class of the data, in their order; null: the rows in their "
        "order, without the null class's",
    )
    check: StrictBool = Field(
        True, description="before training, see on held-out images that its labels and null class are the data's"
    )

    @model_validator(mode="after")
    def _null_is_no_class(self) -> Teacher:
        if self.null_class is not None and self.labels is not None and self.null_class in self.labels:
            raise ValueError(f"null_class {self.null_class} is in labels too: a row is a class or no label")
        if self.path is None and (self.null_class is not None or self.labels is not None):
            raise ValueError("null_class and labels are of a ready teacher: give path too")
        return self


class Distill(Training):
    """How to train the student."""

    objective: AnyObjective = Field(Dash(), description="what the student learns")
    teacher_bank: Count = Field(
        0,
        description="draws for which the teacher's two outputs are computed once and reused; 0: none",
    )
    teacher_precision: Precision = Field(
        "fp32", description="of the teacher's forward; bf16 and fp16 are faster where the device has them"
    )
    timesteps: Literal["uniform", "sampling"] = Field(
        "uniform", description="draw t from all timesteps, or only from those that the recipe's sampler visits"
    )

    @model_validator(mode="after")
    def _divides_into_phases(self) -> Distill:
        phases = len(self.objective.phases) or 1
        if self.steps % phases:
            raise ValueError(
                f"steps {self.steps} does not divide into the {phases} phases of {self.objective.kind}: take a multiple"
            )
        if self.warmup_steps > self.steps // phases:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} exceeds the {self.steps // phases} steps of each phase of "
                f"{self.objective.kind}; set it lower, or steps higher"
            )
        return self

    @model_validator(mode="after")
    def _trains_the_student(self) -> Distill:
        objective = self.objective
        if isinstance(objective, DistributionMatching) and objective.first_step(self.warmup_steps) >= self.steps:
            raise ValueError(
                f"steps {self.steps}: {objective.kind} trains its student in one step of {objective.fake_updates} "
                f"(fake_updates) after the first {self.warmup_steps} (warmup_steps), and no step is one: raise steps, "
                "or lower warmup_steps or fake_updates"
            )
        return self


class Recipe(Model):
    """One run, from data and teacher to a measured student."""

    model_config = ConfigDict(json_schema_extra=may_extend)

    name: Name = Field(description="names the run folder: runs/<name>")
    seed: Seed = Field(0, description="of all training draws and of the student's first weights")
    data: Data = Data()
    noise_schedule: NoiseSchedule | None = Field(None, description="null: the ready teacher's, or linear to train one")
    teacher: Teacher = Teacher()
    teach: Teach | None = Field(None, description="null: the teacher comes from teacher.path")
    student: Student
    distill: Distill = Distill()
    export: Annotated[tuple[Text, ...], DISTINCT] = Field(
        ("onnx-cpu",), description="export targets: names in exporters/, or YAML files; []: no artifact"
    )
    sampling: Sampling = Sampling()
    bench: Bench = Bench()

    @field_validator("sampling")
    @classmethod
    def _has_so_many_timesteps(cls, sampling: Sampling, info: ValidationInfo) -> Sampling:
        schedule = info.data.get("noise_schedule")  # a ready teacher's is not known here; the sampler checks it
        if schedule is not None and sampling.num_inference_steps > schedule.num_train_timesteps:
            raise ValueError(
                f"num_inference_steps {sampling.num_inference_steps} exceeds noise_schedule.num_train_timesteps "
                f"{schedule.num_train_timesteps}"
            )
        return sampling

    @model_validator(mode="after")
    def _clips_only_images(self) -> Recipe:
        if self.data.gives_latents and self.sampling.clip_sample:
            raise ValueError("set sampling.clip_sample to false: latents are not within [-1, 1]")
        return self

    @model_validator(mode="after")
    def _learns_the_lambda_that_it_transfers(self) -> Recipe:
        if self.teacher.path is not None or self.teach is None:
            return self  # a ready teacher has its λ beside it
        taught, wanted = self.teach.timestep_weights, self.distill.timestep_weights
        lam = LEARNED_WEIGHTS.get(wanted.kind)
        if lam is None:
            return self
        problem = ""
        if LEARNED_WEIGHTS.get(taught.kind) != lam:
            problem = f"teach.timestep_weights.kind is {taught.kind!r}"
        elif lam == "tirt" and taught.gamma != wanted.gamma:
            problem = f"gamma is {wanted.gamma:g}, and {taught.gamma:g} in teach"
        if problem:
            raise ValueError(
                f"distill.timestep_weights.kind {wanted.kind!r} takes its λ from the teacher, but {problem}; "
                "say the same in both"
            )
        return self

    @model_validator(mode="after")
    def _learns_for_its_branches(self) -> Recipe:
        objective, student, sampling = self.distill.objective, self.student, self.sampling
        kind = objective.kind
        if objective.branches != student.branches:
            words = {1: "one branch", 2: "two branches"}
            raise ValueError(
                f"distill.objective {kind} trains a student of {words[objective.branches]}, and student.branches is "
                f"{student.branches}: set it to {objective.branches}"
            )
        own = objective.solver
        if sampling.solver != own and (objective.few_steps or sampling.solver == "consistency"):
            raise ValueError(f"sampling.solver {sampling.solver}: a student of {kind} samples by {own}")
        if not objective.few_steps:
            return self
        if student.prediction_type == "epsilon":
            raise ValueError(
                f"distill.objective {kind} trains for few steps, and student.prediction_type is epsilon, which says "
                "nothing of the image at the noisiest timestep: set it to v_prediction or sample"
            )
        if sampling.num_inference_steps not in objective.few_steps:
            known = " or ".join(map(str, objective.few_steps))
            raise ValueError(
                f"sampling.num_inference_steps is {sampling.num_inference_steps}, and distill.objective trains for "
                f"{known}: set it to one of these"
            )
        if (weights := self.distill.timestep_weights.kind) in SNR_WEIGHTS:
            raise ValueError(
                f"distill.timestep_weights.kind {weights} goes to 0 with the SNR, so the noisiest of few steps would "
                "not train: set it to uniform"
            )
        if self.distill.timesteps == "sampling":
            raise ValueError(f"distill.timesteps sampling: {kind} draws t from its own timesteps; leave it out")
        return self

    @model_validator(mode="after")
    def _fine_tunes_a_finished_student(self) -> Recipe:
        distill, kind = self.distill, self.distill.objective.kind
        if not distill.objective.fine_tunes:
            return self
        if self.student.init.kind != "run":
            raise ValueError(
                f"distill.objective {kind} fine-tunes a finished few-step student: name its run in student.init: "
                "{kind: run, path: …}"
            )
        if distill.teacher_bank:
            raise ValueError(
                f"distill.teacher_bank {distill.teacher_bank}: {kind} asks the teacher of the student's images, and "
                "no bank holds them: set it to 0"
            )
        if distill.timestep_weights.kind != "uniform":
            raise ValueError(
                f"distill.timestep_weights.kind {distill.timestep_weights.kind}: {kind} has weights of its own: set it "
                "to uniform"
            )
        return self

    @model_validator(mode="after")
    def _guides_within_its_range(self) -> Recipe:
        trained = self.distill.objective.guidance_range
        if self.student.branches == 1 and trained is not None:
            low, high = trained
            given = {
                "sampling.guidance": (self.sampling.guidance,),
                "bench.quality.guidance": self.bench.quality.guidance,
            }
            for key, some in given.items():
                if bad := [w for scale in some for w in extremes(scale) if not low <= w <= high]:
                    kept = [w for w in some if isinstance(w, float) and low <= w <= high] or [low, high]
                    listed = f"[{', '.join(f'{w:g}' for w in kept)}]"
                    raise ValueError(
                        f"{key} asks for w = {bad[0]:g}, and distill.objective trains one branch for {low:g} … "
                        f"{high:g}; {f'set it to {listed}' if len(given[key]) > 1 else 'set it within'}"
                    )
        return self

    @model_validator(mode="after")
    def _has_teacher(self) -> Recipe:
        if self.teacher.path is None and self.teach is None:
            raise ValueError("no teacher: give teacher.path, or a teach section that trains one")
        return self
