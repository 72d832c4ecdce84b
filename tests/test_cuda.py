"""NVIDIA's driver, present and not: a library with libcuda's functions is compiled and really loaded."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dashdeploy import cuda
from dashdeploy.doctor import probes

SOURCE = """
#include <cstddef>
#include <cstring>
extern "C" {
int cuInit(unsigned) { return INIT; }
int cuDriverGetVersion(int* v) { *v = 13010; return 0; }
int cuDeviceGetCount(int* n) { *n = COUNT; return 0; }
int cuDeviceGetName(char* s, int n, int) { std::strncpy(s, "Test GPU", n); return 0; }
int cuDeviceGetAttribute(int* v, int a, int) { *v = a == 75 ? 8 : a == 76 ? 9 : -1; return 0; }
int cuDeviceTotalMem_v2(std::size_t* n, int) { *n = std::size_t(24) << 30; return MEMORY; }
int cuGetErrorString(int c, const char** s) { *s = "as the driver says it"; return 0; }
}
"""
Fake = Callable[..., cuda.Driver]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """What `look` finds with such a library; the probes find it too."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")

    def build(*, init: int = 0, count: int = 1, memory: int = 0) -> cuda.Driver:
        source, library = tmp_path / "cuda.cpp", tmp_path / f"libcuda-{init}-{count}-{memory}.so"
        source.write_text(SOURCE)
        flags = [f"-DINIT={init}", f"-DCOUNT={count}", f"-DMEMORY={memory}"]
        subprocess.run([compiler, "-shared", "-fPIC", *flags, str(source), "-o", str(library)], check=True)
        driver = cuda.look(str(library))
        monkeypatch.setattr(cuda, "look", lambda: driver)
        return driver

    return build


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without device files, or a variable that hides GPUs."""
    monkeypatch.setattr(probes.os.path, "exists", lambda path: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_each_gpu_is_told_by_name_capability_and_memory(fake: Fake, bare: None) -> None:
    driver = fake(count=2)
    assert driver.works and driver.cuda == "13.1"
    assert driver.devices == ("Test GPU, compute capability 8.9, 24 GiB",) * 2
    row = probes.run("gpu")
    assert (row.status, row.version, row.fix) == ("ok", "CUDA 13.1", "")


def test_without_libcuda_the_part_is_missing_and_pip_is_not_offered(
    bare: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = cuda.look("libcuda-that-is-not-there.so.1")
    assert not driver.installed and not driver.works
    monkeypatch.setattr(cuda, "look", lambda: driver)
    row = probes.run("gpu")
    assert row.status == "missing" and "libcuda-that-is-not-there.so.1" in row.detail
    assert "pip cannot" in row.fix and "pip install" not in row.fix


def test_a_driver_that_does_not_start_is_broken_and_says_why(fake: Fake, bare: None) -> None:
    assert not fake(init=803).works
    row = probes.run("gpu")
    assert (row.status, row.detail) == ("broken", "cuInit fails: error 803 (as the driver says it)")


@pytest.mark.parametrize("how", [{"init": cuda.NO_DEVICE}, {"count": 0}])
def test_a_driver_without_a_gpu_is_no_failure(fake: Fake, bare: None, how: dict[str, int]) -> None:
    fake(**how)
    assert probes.run("gpu").status == "missing"


def test_a_hidden_gpu_is_told_from_a_missing_one(fake: Fake, bare: None, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(init=cuda.NO_DEVICE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert probes.run("gpu").fix == "unset CUDA_VISIBLE_DEVICES"


def test_a_gpu_that_does_not_answer_keeps_its_place(fake: Fake) -> None:
    assert fake(memory=46).devices == ("GPU 0: it does not answer (error 46 (as the driver says it))",)
