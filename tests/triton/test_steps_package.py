"""The package of the step scheduler: its config, its README, and settings that do not fit it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dashdeploy.packages.schema import Triton
from tests.triton.test_package import artifact_of, contract_of, inputs_of, parsed_config, write, writer


def test_batches_by_the_step_leave_batching_to_the_model(tiny_run: Path, tmp_path: Path) -> None:
    config = write(writer("triton-steps"), tmp_path / "package", artifact_of(tiny_run))
    assert not config.HasField("dynamic_batching") and not config.model_warmup and config.max_batch_size == 64
    assert config.model_transaction_policy.decoupled
    told = {key: value.string_value for key, value in config.parameters.items() if key not in ("classes", "guidance")}
    assert told == {"scheduler": "steps", "previews": "true", "max_queue_size": "1024"}
    assert inputs_of(config, 1)["preview_every"] == ("int64", [1, 1])
    assert [output.name for output in config.output] == ["image", "position", "step"]
    readme = (tmp_path / "package" / "README.md").read_text()
    assert "Only gRPC streams serve this model" in readme and "dynamic" not in readme and "warm-up" not in readme
    assert "Write the package with `previews: false`" in readme
    assert "Up to 1024 images wait" in readme and "`solver` is `ddim` or `dpmpp_2m`." in readme
    plain = parsed_config(writer("triton-steps", previews=False).settings, contract_of(tiny_run))
    assert not plain.model_transaction_policy.decoupled and len(plain.output) == 1
    assert "preview_every" not in inputs_of(plain, 1) and plain.parameters["previews"].string_value == "false"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"previews": True}, "previews is of scheduler steps"),
        (
            {"scheduler": "steps", "backend": "tensorrt_plan"},
            "scheduler steps is of backend python, not of tensorrt_plan",
        ),
        ({"scheduler": "steps", "instances": 2}, "instances must be 1"),
    ],
)
def test_settings_that_do_not_fit_the_step_scheduler_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Triton(**changes)
