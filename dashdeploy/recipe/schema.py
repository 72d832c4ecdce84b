"""The recipe's schema: every key, its default and its meaning. Defaults live here and nowhere else."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DatasetName = Literal["digits", "fashion_mnist", "cifar10", "cifar100", "image_folder"]
Positive = Annotated[int, Field(ge=1)]
Precision = Literal["fp32", "bf16", "fp16"]
LossWeightKind = Literal["published", "tirt", "min_snr_x0", "uniform", "min_snr_eps", "uncertainty", "loss_ema"]
LEARNED_WEIGHTS: frozenset[str] = frozenset({"published", "tirt", "uncertainty", "loss_ema"})


class Model(BaseModel):
    """Base of every section: frozen, and no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(Model):
    """Which labelled images to train on and to measure against."""

    name: DatasetName = "digits"
    image_size: int | None = Field(
        None, ge=4, description="resize (antialiased bilinear) to this many pixels a side; null: as stored"
    )
    path: str | None = Field(None, description="folder that holds the dataset's files; null: where it is usually found")
    holdout: float = Field(0.1, ge=0, lt=1, description="share of the training images kept for guidance fidelity")
    horizontal_flip: bool | None = Field(None, description="mirror images at random; null: the dataset's own default")
    download: bool = Field(False, description="fetch the dataset's published archive if it is not there")


class NoiseSchedule(Model):
    """The forward process: betas over T timesteps."""

    kind: Literal["linear", "cosine"] = "linear"
    num_train_timesteps: int = Field(1000, ge=2)
    beta_start: float = Field(1e-4, gt=0, lt=1, description="linear: first beta. cosine: lower clip of beta")
    beta_end: float = Field(0.02, gt=0, lt=1, description="linear: last beta. cosine: upper clip of beta")

    @model_validator(mode="after")
    def _ordered(self) -> NoiseSchedule:
        if self.beta_end <= self.beta_start:
            raise ValueError(f"beta_end ({self.beta_end}) must exceed beta_start ({self.beta_start})")
        return self


class Architecture(Model):
    """A class-conditional UNet2DModel (diffusers), in its own terms."""

    block_out_channels: tuple[Positive, ...] = Field((64, 128), min_length=1, description="channels of each level")
    layers_per_block: int = Field(2, ge=1)
    attention_levels: tuple[int, ...] = Field(
        (), description="levels (0 = finest) with self-attention; the middle has it always"
    )
    attention_head_dim: int | None = Field(None, ge=1, description="channels a head; null: one head")
    norm_num_groups: int = Field(8, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> Architecture:
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                raise ValueError(
                    f"block_out_channels {width} is not a multiple of norm_num_groups {self.norm_num_groups}"
                )
        for level in self.attention_levels:
            if not 0 <= level < len(self.block_out_channels):
                raise ValueError(
                    f"attention level {level} does not exist: there are {len(self.block_out_channels)} levels"
                )
        return self


class TimestepWeights(Model):
    """How the loss of each timestep is weighted (arXiv:2606.00798 Eq. 2 and its alternatives)."""

    kind: LossWeightKind = "uniform"
    gamma: float = Field(5.0, gt=0, description="SNR clip of tirt, published and min_snr_*")
    alpha: float = Field(0.5, description="exponent of loss_ema")


class Training(Model):
    """What every training run shares."""

    steps: int = Field(1000, ge=1, description="optimizer steps")
    batch_size: int = Field(128, ge=1, description="images a step over all processes and accumulation")
    gradient_accumulation: int = Field(1, ge=1, description="micro-batches a step; divides batch_size")
    learning_rate: float = Field(2e-4, gt=0)
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = Field(100, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    gradient_clip: float = Field(1.0, gt=0, description="largest gradient norm")
    ema_decay: float = Field(0.999, ge=0, lt=1)
    timestep_weights: TimestepWeights = TimestepWeights()
    precision: Precision = "fp32"
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; null: torch's own choice")
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints")
    log_every: int = Field(20, ge=1, description="steps between lines of metrics.jsonl")
    tensorboard: bool = False

    @model_validator(mode="after")
    def _divides(self) -> Training:
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of gradient_accumulation {self.gradient_accumulation}"
            )
        return self


class Teach(Training):
    """How to train the teacher: eps-prediction with per-sample label dropout."""

    architecture: Architecture = Architecture()
    label_dropout: float = Field(0.1, ge=0, lt=1, description="chance that a sample's label becomes the null class")
    save_dtype: Literal["float32", "float16"] = Field("float32", description="how the weights are stored")


class Teacher(Model):
    """A ready teacher; leave out to train one by the `teach` section."""

    path: str | None = Field(
        None, description="folder in diffusers format; relative to the recipe or to the packaged recipes"
    )


class Student(Model):
    """The student's architecture: a compression ratio, or explicit."""

    compression: float | None = Field(None, gt=1, description="teacher parameters / student parameters, at least")
    layers_per_block: int | None = Field(
        None, ge=1, description="with compression: fix the blocks a level; null: search"
    )
    architecture: Architecture | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Student:
        if (self.compression is None) == (self.architecture is None):
            raise ValueError("give exactly one of compression and architecture")
        if self.architecture is not None and self.layers_per_block is not None:
            raise ValueError("layers_per_block goes with compression; with architecture say it there")
        return self


class Dash(Model):
    """L = imitation·L_im + unconditional·L_un + anchor·L_an (Eq. 7)."""

    kind: Literal["dash"] = "dash"
    imitation: float = Field(1.0, ge=0)
    unconditional: float = Field(1.0, ge=0)
    anchor: float = Field(0.1, ge=0)

    @model_validator(mode="after")
    def _asks_for_something(self) -> Dash:
        if self.imitation == self.unconditional == self.anchor == 0:
            raise ValueError("all coefficients are 0: there is nothing to learn")
        return self


class CondOnly(Model):
    """Imitate the conditional branch alone: the control whose guidance breaks."""

    kind: Literal["cond_only"] = "cond_only"
    imitation: float = Field(1.0, ge=0)
    anchor: float = Field(0.1, ge=0)


class Scratch(Model):
    """No teacher: the denoising loss with label dropout."""

    kind: Literal["scratch"] = "scratch"
    label_dropout: float = Field(0.1, ge=0, lt=1)


Objective = Annotated[Dash | CondOnly | Scratch, Field(discriminator="kind")]


class Distill(Training):
    """How to train the student."""

    objective: Objective = Dash()
    teacher_bank: int = Field(
        0,
        ge=0,
        description="precompute the teacher's two outputs for this many draws and reuse them; 0: run it at every step",
    )


class Tag(Model):
    """TAG guidance (Eq. 3): w(t) = w_min + (w_max − w_min)·sigmoid(β(0.5 − t/T))."""

    kind: Literal["tag"] = "tag"
    w_min: float = Field(1.0, ge=0)
    w_max: float = Field(4.0, ge=0)
    beta: float = 5.0

    @model_validator(mode="after")
    def _ordered(self) -> Tag:
        if self.w_max < self.w_min:
            raise ValueError(f"w_max ({self.w_max:g}) must not be below w_min ({self.w_min:g})")
        return self


Guidance = Annotated[float, Field(ge=0)] | Tag


class Sampling(Model):
    """The DDIM sampler (η = 0) that the benchmark and `sample` use."""

    num_inference_steps: int = Field(50, ge=1)
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "trailing"
    clip_sample: bool = Field(True, description="clip the predicted x_0 to [-1, 1] and recompute eps")
    guidance: Guidance = Field(2.0, description="guidance scale w (1 = off), or {kind: tag, …}")


class Latency(Model):
    """What the latency benchmark times."""

    batch_sizes: tuple[Positive, ...] = Field((1, 8, 64), min_length=1)
    warmup: int = Field(3, ge=0)
    repeats: int = Field(20, ge=3, description="timed single steps a batch size")
    sampler_repeats: int = Field(3, ge=1, description="timed whole samplers a batch size")
    sampler_budget_s: float = Field(
        20.0, gt=0, description="skip further whole-sampler repeats of a row past this time"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of every runtime; null: all cores")


class Quality(Model):
    """What the quality benchmark measures."""

    num_images: int = Field(1000, ge=16)
    guidance: tuple[Guidance, ...] = Field((1.0, 1.5, 2.0, 3.0, 4.0, Tag()), min_length=1)
    features: str = Field("auto", description="auto (the dataset's committed network), or inception")
    features_weights: str | None = Field(None, description="inception: the weights file")
    torch_student: Literal["recipe", "all"] = Field(
        "recipe",
        description="where the student is sampled in torch too, beside its artifacts: at sampling.guidance, or at all",
    )
    batch_size: int = Field(128, ge=1)
    bootstrap: int = Field(200, ge=0, description="resamples of the interval")


class Fidelity(Model):
    """What the guidance-fidelity table measures."""

    num_pairs: int = Field(2000, ge=100, description="held-out (x_0, eps, t, y) draws")
    bins: int = Field(10, ge=2)


class Bench(Model):
    """The benchmark: latency, quality, guidance fidelity."""

    seed: int = Field(0, ge=0, description="seed of the benchmark's own noise and draws, whatever the training's")
    latency: Latency = Latency()
    quality: Quality = Quality()
    fidelity: Fidelity = Fidelity()


class Recipe(Model):
    """One run: from data and teacher to a measured student."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="names the run folder: runs/<name>")
    seed: int = Field(0, ge=0)
    data: Data = Data()
    noise_schedule: NoiseSchedule | None = Field(
        None, description="null: the given teacher's own, or linear to train one"
    )
    teacher: Teacher = Teacher()
    teach: Teach | None = Field(None, description="null: the teacher comes from teacher.path")
    student: Student
    distill: Distill = Distill()
    export: tuple[str, ...] = Field(("onnx-cpu",), description="targets of exporters/")
    sampling: Sampling = Sampling()
    bench: Bench = Bench()

    @model_validator(mode="after")
    def _has_teacher(self) -> Recipe:
        if self.teacher.path is None and self.teach is None:
            raise ValueError("no teacher: give teacher.path, or a teach section that trains one")
        if len(set(self.export)) != len(self.export):
            raise ValueError("export names a target twice")
        return self
