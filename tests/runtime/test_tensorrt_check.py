"""Whether an engine fits a machine is told from its manifest."""

from __future__ import annotations

from typing import Any

import pytest

from dashdeploy.artifact import EngineRecord
from dashdeploy.errors import UserError
from dashdeploy.runtime.tensorrt_check import check
from dashdeploy.runtime.tensorrt_library import Here
from tests.records import engine_record

ENGINE = engine_record("tensorrt", tensorrt="11.1.0.10", device_name="NVIDIA L4")
RTX = engine_record("tensorrt_rtx", tensorrt="1.7.1.116", device_name="NVIDIA L4", compute_capabilities=("8.6", "8.9"))
L4 = Here("tensorrt", "11.1.0.10", "13", "13.0", "NVIDIA L4", "8.9")
RTX_L4 = Here("tensorrt_rtx", "1.7.1.116", "13", "13.0", "NVIDIA L4", "8.9")


def with_(here: Here, **changes: Any) -> Here:
    return Here(**{**vars(here), **changes})


def flagged(**flags: Any) -> EngineRecord:
    return ENGINE.model_copy(update={"flags": ENGINE.flags.model_copy(update=flags)})


def test_an_engine_fits_where_it_was_built() -> None:
    assert check(ENGINE, L4) == check(RTX, RTX_L4) == []


def test_another_flavour_is_refused() -> None:
    with pytest.raises(UserError, match="built by TensorRT, and TensorRT-RTX cannot run it"):
        check(ENGINE, RTX_L4)


def test_another_version_is_refused_with_both_ways_out() -> None:
    with pytest.raises(UserError, match=r"pip install tensorrt==11\.1\.0\.10, or export it again"):
        check(ENGINE, with_(L4, version="11.2.0.1"))
    with pytest.raises(UserError, match=r"pip install tensorrt-rtx-cu13==1\.7\.1\.116"):
        check(RTX, with_(RTX_L4, version="1.7.1.117"))


def test_version_compatible_engines_load_in_later_versions_of_the_same_major() -> None:
    engine = flagged(version_compatible=True)
    assert check(engine, with_(L4, version="11.2.0.1")) == []
    for version in ("11.0.0.1", "12.0.0.1"):
        with pytest.raises(UserError, match=r"this version or a later 11\.x"):
            check(engine, with_(L4, version=version))


def test_another_compute_capability_is_refused_unless_the_engine_was_built_for_it() -> None:
    a100 = with_(L4, device_name="A100", compute_capability="8.0")
    with pytest.raises(UserError, match=r"built for compute capability 8\.9, and A100 has 8\.0: .*ampere_plus"):
        check(ENGINE, a100)
    assert check(flagged(hardware_compatibility="ampere_plus"), a100) == [
        "engine: tuned on NVIDIA L4, and this is A100; built here it may be faster"
    ]
    t4 = with_(L4, device_name="T4", compute_capability="7.5")
    with pytest.raises(UserError, match="Ampere and later"):
        check(flagged(hardware_compatibility="ampere_plus"), t4)
    with pytest.raises(UserError, match=r"and A100 has 8\.0"):
        check(flagged(hardware_compatibility="same_compute_capability"), a100)
    with pytest.raises(UserError, match=r"export it again with 12\.0 in engine\.compute_capabilities"):
        check(RTX, with_(RTX_L4, compute_capability="12.0"))


def test_another_card_of_the_same_capability_is_a_remark() -> None:
    assert check(ENGINE, with_(L4, device_name="RTX 4090"), source="e.plan") == [
        "e.plan: tuned on NVIDIA L4, and this is RTX 4090; built here it may be faster"
    ]
    assert check(RTX, with_(RTX_L4, device_name="RTX 4090")) == []


def test_a_driver_that_is_too_old_is_refused() -> None:
    with pytest.raises(UserError, match=r"needs CUDA 13, and the driver runs 12\.8: update the NVIDIA driver"):
        check(ENGINE, with_(L4, driver_cuda="12.8"))
    assert check(ENGINE, with_(L4, driver_cuda="14.1")) == []


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(UserError) as error:
        check(ENGINE, with_(L4, version="11.2.0.1", driver_cuda="12.8", compute_capability="9.0"), source="e.plan")
    text = str(error.value)
    assert text.startswith("e.plan: ") and "\n" not in text
    assert all(part in text for part in ("11.2.0.1", "12.8", "9.0"))


def test_a_machine_without_the_library_or_a_gpu_is_told_so() -> None:
    with pytest.raises(UserError, match=r"pip install 'dashdeploy\[rtx\]'"):
        check(RTX, Here("tensorrt_rtx"))
    with pytest.raises(UserError, match="there is none here"):
        check(RTX, Here("tensorrt_rtx", "1.7.1.116", "13"))
