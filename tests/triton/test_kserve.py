"""The Kubernetes example against the fields of KServe's v1beta1 API, offline.

The models below hold the fields that the example uses, with their types and allowed values, written by hand after the
Python package kserve 0.21.0 (V1beta1InferenceService, V1beta1PredictorSpec, V1beta1ModelSpec) and Kubernetes' core/v1
(Probe, ResourceRequirements, Volume, VolumeMount). No cluster is asked.
"""

from __future__ import annotations

import copy
import re
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StringConstraints, ValidationError, model_validator

from dashdeploy import stages

Port = Annotated[StrictInt, Field(ge=1, le=65535)]
Positive = Annotated[StrictInt, Field(ge=1)]
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9.]+(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
Dns1035 = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=63)]


class Strict(BaseModel):
    """No field that the API does not have."""

    model_config = ConfigDict(extra="forbid")


class HttpGet(Strict):
    path: str
    port: Port


class Probe(Strict):
    httpGet: HttpGet
    initialDelaySeconds: StrictInt = 0
    periodSeconds: Positive = 10
    timeoutSeconds: Positive = 1
    failureThreshold: Positive = 3
    successThreshold: Positive = 1


class Resources(Strict):
    requests: dict[str, Quantity]
    limits: dict[str, Quantity]


class VolumeMount(Strict):
    name: Dns1035
    mountPath: Annotated[str, StringConstraints(pattern=r"^/[^:]*$")]
    readOnly: bool = False


class EmptyDir(Strict):
    medium: Literal["", "Memory"] = ""
    sizeLimit: Quantity | None = None


class Volume(Strict):
    name: Dns1035
    emptyDir: EmptyDir


class ModelFormat(Strict):
    name: Literal["triton", "tensorrt", "onnx", "pytorch", "tensorflow", "sklearn", "xgboost"]
    version: str | None = None


class ModelSpec(Strict):
    modelFormat: ModelFormat
    protocolVersion: Literal["v1", "v2", "grpc-v1", "grpc-v2"]
    runtime: str
    image: str
    storageUri: Annotated[str, StringConstraints(pattern=r"^(s3|gs|pvc|https?|hdfs|webhdfs|oci|hf)://\S+$")]
    resources: Resources
    volumeMounts: list[VolumeMount]
    readinessProbe: Probe
    livenessProbe: Probe


class Predictor(Strict):
    minReplicas: Annotated[StrictInt, Field(ge=0)]
    maxReplicas: Positive
    scaleMetric: Literal["cpu", "memory", "concurrency", "rps"]
    scaleTarget: Positive
    timeout: Positive
    volumes: list[Volume]
    model: ModelSpec

    @model_validator(mode="after")
    def _ordered(self) -> Predictor:
        if self.minReplicas > self.maxReplicas:
            raise ValueError("minReplicas exceeds maxReplicas")
        return self


class Metadata(Strict):
    name: Dns1035
    annotations: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)


class Spec(Strict):
    predictor: Predictor


class InferenceService(Strict):
    apiVersion: Literal["serving.kserve.io/v1beta1"]
    kind: Literal["InferenceService"]
    metadata: Metadata
    spec: Spec


@pytest.fixture
def example(python_package: stages.Stage) -> dict[str, Any]:
    text = (python_package.folder / "kubernetes" / "inferenceservice.yaml").read_text()
    service: dict[str, Any] = yaml.safe_load(text)
    return service


def test_the_example_has_the_fields_of_the_api_and_scales(
    example: dict[str, Any], python_package: stages.Stage
) -> None:
    service = InferenceService.model_validate(example)
    settings = python_package.manifest["inputs"]["package"]["package"]
    predictor = service.spec.predictor
    assert service.metadata.name == "tiny"
    assert (predictor.minReplicas, predictor.maxReplicas) == (1, settings["max_replicas"])
    assert service.metadata.annotations == {"serving.kserve.io/deploymentMode": "Serverless"}
    assert (predictor.scaleMetric, predictor.scaleTarget) == ("concurrency", 2 * settings["max_batch_size"])
    assert predictor.model.modelFormat.name == "triton"
    assert predictor.model.readinessProbe.httpGet.path == "/v2/health/ready"
    assert predictor.model.livenessProbe.httpGet.path == "/v2/health/live"
    (mounted,), (volume,) = predictor.model.volumeMounts, predictor.volumes
    assert mounted.name == volume.name and mounted.mountPath == "/dev/shm" and volume.emptyDir.medium == "Memory"


def test_only_an_artifact_for_a_gpu_asks_for_one(example: dict[str, Any]) -> None:
    assert set(example["spec"]["predictor"]["model"]["resources"]["limits"]) == {"cpu", "memory"}


def test_its_image_is_built_from_the_dockerfile_beside_it(
    example: dict[str, Any], python_package: stages.Stage
) -> None:
    lines = (python_package.folder / "kubernetes" / "Dockerfile").read_text().splitlines()
    assert sum(line.startswith("FROM nvcr.io/nvidia/tritonserver:") for line in lines) == 1
    assert any(re.match(r'RUN pip install .*"numpy<2" onnxruntime==\d', line) for line in lines)
    assert example["spec"]["predictor"]["model"]["image"].endswith("/tiny-triton:1")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "predictor", "maxReplica"), 3),
        (("spec", "predictor", "scaleMetric"), "latency"),
        (("spec", "predictor", "maxReplicas"), "four"),
        (("spec", "predictor", "minReplicas"), 9),
        (("spec", "predictor", "model", "storageUri"), "model_repository"),
        (("metadata", "name"), "Upper_Case"),
        (("apiVersion",), "serving.kserve.io/v1alpha1"),
    ],
)
def test_the_check_sees_mistakes(example: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    wrong = copy.deepcopy(example)
    place = wrong
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValidationError, match=path[-1]):
        InferenceService.model_validate(wrong)
