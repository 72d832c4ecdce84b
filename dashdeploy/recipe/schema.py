"""The recipe's schema: every key, its default and its meaning. Defaults are given here and nowhere else."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StrictBool, ValidationInfo, field_validator, model_validator

from dashdeploy.fields import (
    DISTINCT,
    REAL,
    WHOLE,
    Batch,
    Bins,
    Coefficient,
    Count,
    Images,
    Model,
    Name,
    Number,
    Positive,
    Repeats,
    Seed,
    Side,
    Text,
    Threads,
    may_extend,
)
from dashdeploy.objectives import AnyObjective
from dashdeploy.objectives.dash import Dash
from dashdeploy.recipe.architecture import Architecture, DiT, Layers
from dashdeploy.recipe.datasets import DatasetName
from dashdeploy.recipe.initialisation import Init, Random
from dashdeploy.recipe.sampling import Guidance, Sampling, Tag
from dashdeploy.recipe.sampling import GuidanceInterval as GuidanceInterval
from dashdeploy.recipe.sampling import Solver as Solver

Precision = Literal["fp32", "bf16", "fp16"]
Tracker = Literal["aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"]
"""As accelerate's LoggerType names them."""
LossWeightKind = Literal["published", "tirt", "min_snr_x0", "uniform", "min_snr_eps", "uncertainty", "loss_ema"]
LEARNED_WEIGHTS = {"published": "tirt", "tirt": "tirt", "uncertainty": "uncertainty", "loss_ema": "loss_ema"}
"""Kinds that learn a λ, and the name of this λ: kinds of one name can take each other's."""


class Data(Model):
    """The labelled images to train on and to measure against."""

    name: DatasetName = Field("digits", description="the dataset")
    image_size: Side | None = Field(
        None,
        description="side in pixels: images are cropped to their central square and resized by Pillow's antialiased "
        "bilinear filter; null: as stored",
    )
    path: Text | None = Field(
        None, description="folder with the dataset's files, relative to this file; null: the dataset's usual folder"
    )
    holdout: Number = Field(
        0.1, ge=0, lt=1, description="share of the training images that is held out, for guidance fidelity"
    )
    horizontal_flip: StrictBool | None = Field(None, description="mirror images at random; null: as the dataset says")
    download: StrictBool = Field(False, description="download the dataset's published archive if it is not there")
    vae: Text | None = Field(
        None,
        description="folder of a diffusers AutoencoderKL, relative to this file: encode the images once and train on "
        "their latents",
    )

    @property
    def gives_latents(self) -> bool:
        """Whether networks are trained on latents, which have no fixed range, and not on images."""
        return self.name == "latents" or self.vae is not None

    @model_validator(mode="after")
    def _encoded_once(self) -> Data:
        if self.name == "latents" and (self.vae is not None or self.image_size is not None):
            raise ValueError("latents are not changed: leave out vae and image_size")
        if self.gives_latents and self.horizontal_flip:
            raise ValueError("a mirrored image's latent is not the mirrored latent: leave out horizontal_flip")
        return self


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

    architecture: Architecture = Architecture()
    label_dropout: Number = Field(0.1, ge=0, lt=1, description="chance that a sample's label becomes the null class")
    save_dtype: Literal["float32", "float16"] = Field("float32", description="how the weights are stored")


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


class Student(Model):
    """The student's network: a compression ratio (a smaller network of the teacher's kind), or its architecture."""

    compression: Annotated[float, Field(gt=1, le=1e6), REAL] | None = Field(
        None, description="smallest ratio of the teacher's parameters to the student's"
    )
    layers_per_block: Layers | None = Field(
        None, description="with compression of a UNet: blocks of each level; null: chosen with the widths"
    )
    architecture: Architecture | None = Field(None, description="a UNet2DModel in full")
    dit: DiT | None = Field(None, description="a DiTTransformer2DModel in full")
    init: Init = Field(Random(), description="its weights at the start: random, or pruned from the teacher's")

    @model_validator(mode="after")
    def _given_once(self) -> Student:
        if sum(size is not None for size in (self.compression, self.architecture, self.dit)) != 1:
            raise ValueError("give exactly one of compression, architecture and dit")
        if self.compression is None and self.layers_per_block is not None:
            raise ValueError("layers_per_block goes with compression; architecture has its own layers_per_block")
        if self.dit is not None and self.init.kind == "pruned":
            raise ValueError("init: {kind: pruned} is only for UNets; leave it out with dit")
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


class Latency(Model):
    """What the latency benchmark times."""

    batch_sizes: Annotated[tuple[Batch, ...], DISTINCT] = Field(
        (1, 8, 64), description="[]: neither latency nor loading time nor memory is measured"
    )
    warmup: Repeats = Field(3, ge=0, description="untimed runs before the timed ones")
    repeats: Repeats = Field(20, ge=3, description="timed single steps for each batch size")
    sampler_repeats: Repeats = Field(6, ge=1, description="timed whole samplers for each batch size; intervals need 6")
    sampler_budget_s: Number = Field(
        60.0, gt=0, description="past this time a row gets no further whole-sampler repeats, seconds"
    )
    threads: Threads | None = Field(None, description="CPU threads of every runtime; null: all cores")


class Quality(Model):
    """What the quality benchmark measures."""

    num_images: Images = Field(1000, ge=16, description="of each model, guidance and seed, in the classes' proportions")
    seeds: Annotated[int, Field(ge=1, le=100), WHOLE] = Field(1, description="so often num_images are drawn anew")
    guidance: Annotated[tuple[Guidance, ...], DISTINCT] = Field((1.0, 1.5, 2.0, 3.0, 4.0, Tag()), min_length=1)
    features: Text = Field(
        "auto",
        description="network of FID and KID: auto (the dataset's), a network's name, inception, fit (a small "
        "classifier is trained on the recipe's images) or none (no FID; images are drawn only for the report's grids)",
    )
    features_weights: Text | None = Field(None, description="inception: its weights file, relative to this file")
    torch_student: Literal["recipe", "all"] = Field(
        "recipe",
        description="the guidances at which the student is also sampled in torch: sampling.guidance, or all",
    )
    batch_size: Batch = Field(128, description="images that are drawn at a time")
    bootstrap: Repeats = Field(200, ge=0, description="resamples for the confidence intervals; 0: none")


class Fidelity(Model):
    """What the guidance-fidelity table measures."""

    num_pairs: Images = Field(2000, ge=100, description="held-out (x_0, eps, t, y) draws")
    bins: Bins = Field(10, ge=2, description="number of equal ranges of t")

    @model_validator(mode="after")
    def _fills_its_bins(self) -> Fidelity:
        if self.bins > self.num_pairs:
            raise ValueError(f"bins {self.bins} exceeds num_pairs {self.num_pairs}: some would be empty")
        return self


class Bench(Model):
    """What the benchmark measures: latency, quality, guidance fidelity."""

    seed: Seed = Field(0, description="seed of the benchmark's noise and draws; independent of the training's")
    latency: Latency = Latency()
    quality: Quality = Quality()
    fidelity: Fidelity = Fidelity()


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
    def _has_teacher(self) -> Recipe:
        if self.teacher.path is None and self.teach is None:
            raise ValueError("no teacher: give teacher.path, or a teach section that trains one")
        return self
