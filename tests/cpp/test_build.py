"""Building as users do: the emitted folder without Python, find_package, add_subdirectory, C, a missing library."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from building import OPENVINO, ROOT, SOURCES, WARNINGS, build, configure, json_headers, run, tool
from conftest import Released

pytestmark = pytest.mark.slow

APPLICATION = """\
cmake_minimum_required(VERSION 3.20)
project(app CXX)
find_package(dashdeploy 1.0 REQUIRED)
add_executable(app {package}/example/main.cpp)
target_link_libraries(app PRIVATE dashdeploy::dashdeploy)
"""


def test_the_emitted_folder_builds_and_samples_where_there_is_no_python(
    package: Path, released_without_python: Released, tmp_path: Path
) -> None:
    folder, configured, place = released_without_python
    with pytest.raises(FileNotFoundError):
        run("python3", env=place.environment)
    assert "dashdeploy backend openvino: 20" in configured
    out = tmp_path / "samples.ppm"
    asked = ("--labels", "0-9", "-w", "3", "--seed", "7", "--out", out)
    assert place.run(folder / "dashdeploy-sample", "artifact", *asked, cwd=package) == f"{out}\n"
    assert out.read_bytes().startswith(b"P6\n32 320\n255\n")


def test_an_installed_runtime_is_found_by_find_package(
    package: Path, released: Path, artifact: Path, tmp_path: Path
) -> None:
    prefix, source = tmp_path / "prefix", tmp_path / "app"
    done = run(tool("cmake"), "--install", released, "--prefix", prefix)
    assert done.returncode == 0, done.stderr
    source.mkdir()
    (source / "CMakeLists.txt").write_text(APPLICATION.format(package=package))
    app = build(source, tmp_path / "built", f"-DCMAKE_PREFIX_PATH={prefix}") / "app"
    done = run(app, artifact)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("class ") == 4
    assert "step 100 of 100" in done.stderr
    assert (prefix / "bin" / "dashdeploy-sample").is_file()


def test_a_static_runtime_is_built_in_a_project_by_add_subdirectory(
    artifact: Path, sanitized: Path, sanitizer_environment: dict[str, str]
) -> None:
    assert not list(sanitized.rglob("libdashdeploy.so*"))
    assert not list(sanitized.rglob("dashdeploy-sample")), "tools belong to the project's own build alone"
    done = run(sanitized / "app", artifact, env=sanitizer_environment)
    assert done.returncode == 0, done.stderr
    done = run(sanitized / "app", artifact / "nothing", env=sanitizer_environment)
    assert (done.returncode, done.stderr.split(":")[0]) == (1, "not found")


@pytest.mark.parametrize("language", ["c11", "c++17"])
def test_the_headers_compile_without_warnings(language: str, tmp_path: Path) -> None:
    compiler, header = ("cc", "dashdeploy.h") if language == "c11" else ("c++", "dashdeploy.hpp")
    source = tmp_path / ("main.c" if language == "c11" else "main.cpp")
    zero = "{0}" if language == "c11" else "{}"
    source.write_text(
        f"#include <dashdeploy/{header}>\nint main(void) {{ dd_request r = {zero}; return (int)r.size; }}\n"
    )
    command = (tool(compiler), f"-std={language}", *WARNINGS, f"-I{SOURCES / 'include'}", "-fsyntax-only", source)
    done = run(*command)
    assert done.returncode == 0, done.stderr


def test_the_library_compiles_for_64_bit_arm(package: Path, tmp_path: Path) -> None:
    """As a static library: the board's own libraries, which it is linked with in the end, are not here."""
    if shutil.which("aarch64-linux-gnu-g++") is None:
        pytest.skip("no cross-compiler for 64-bit ARM (Debian: apt-get install g++-aarch64-linux-gnu)")
    headers = tmp_path / "include" / "openssl"
    headers.mkdir(parents=True)
    for folder in ("/usr/include/openssl", "/usr/include/x86_64-linux-gnu/openssl"):
        for header in Path(folder).glob("*.h"):
            (headers / header.name).symlink_to(header)
    crypto = Path("/usr/lib/x86_64-linux-gnu/libcrypto.so")
    options = (
        f"-DCMAKE_TOOLCHAIN_FILE={package / 'cmake' / 'aarch64-linux-gnu.cmake'}",
        "-DBUILD_SHARED_LIBS=OFF",
        *("-DDASHDEPLOY_BACKENDS=openvino", f"-DOpenVINO_DIR={OPENVINO}", "-DDASHDEPLOY_WERROR=ON"),
        *("-DDASHDEPLOY_TOOLS=OFF", "-DDASHDEPLOY_EXAMPLE=OFF", "-DCMAKE_BUILD_TYPE=Debug"),
        *(f"-DOPENSSL_INCLUDE_DIR={headers.parent}", f"-DOPENSSL_CRYPTO_LIBRARY={crypto}"),
    )
    built = tmp_path / "build"
    tools = (f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", f"-DNLOHMANN_JSON_INCLUDE_DIR={json_headers()}")
    done = run(tool("cmake"), "-S", package, "-B", built, "-G", "Ninja", *options, *tools)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(tool("cmake"), "--build", built)
    assert done.returncode == 0, done.stdout + done.stderr
    said = run("aarch64-linux-gnu-readelf", "-h", built / "libdashdeploy.a").stdout
    assert set(re.findall(r"Machine: +(\S+)", said)) == {"AArch64"}


def test_the_documentation_shows_the_example_as_it_is() -> None:
    assert (SOURCES / "example" / "main.cpp").read_text() in (ROOT / "docs" / "cpp.md").read_text()


def test_the_c_header_stays_readable() -> None:
    assert len((SOURCES / "include" / "dashdeploy" / "dashdeploy.h").read_text().splitlines()) <= 175
    assert len((SOURCES / "example" / "main.cpp").read_text().splitlines()) <= 40


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder that is configured again and again: CMake looks at the compiler once."""
    return tmp_path_factory.mktemp("configured")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            ["-DDASHDEPLOY_BACKENDS=onnxruntime"],
            r"asks for onnxruntime, which was not found: give\s+-DONNXRUNTIME_ROOT=",
        ),
        (["-DDASHDEPLOY_BACKENDS=tensorrt"], r"asks for tensorrt, which was not found: give\s+-DTENSORRT_ROOT="),
        (["-DDASHDEPLOY_BACKENDS=openvin"], "'openvin' is not known"),
        (
            ["-DDASHDEPLOY_BACKENDS=auto", "-DCMAKE_DISABLE_FIND_PACKAGE_OpenVINO=ON"],
            "No inference library was found",
        ),
    ],
)
def test_cmake_says_which_backend_is_missing(configured: Path, options: list[str], text: str) -> None:
    done = configure(SOURCES, configured, *options)
    assert done.returncode != 0
    assert re.search(text, done.stderr), done.stderr


def test_a_warm_loop_allocates_nothing_of_its_own(released: Path, artifact: Path, tmp_path: Path) -> None:
    program = tmp_path / "allocations"
    source = Path(__file__).parent / "allocations.cpp"
    flags = ("-std=c++17", "-O1", "-rdynamic", f"-I{SOURCES / 'include'}", f"-L{released}", f"-Wl,-rpath,{released}")
    done = run(tool("c++"), *flags, source, "-o", program, "-ldashdeploy", "-ldl")
    assert done.returncode == 0, done.stderr
    assert run(program, artifact).stdout == "counted 0\n"


def test_pictures_are_what_the_values_are(released: Path, artifact: Path, tmp_path: Path) -> None:
    from PIL import Image

    common = ("--labels", "3,7", "--columns", "2", "--seed", "7")
    for name in ("a.f32", "a.png", "a.ppm", "a.pgm"):
        options = () if name.endswith("f32") else ("--scale", "1")
        done = run(released / "dashdeploy-sample", artifact, *common, *options, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
    values = np.fromfile(tmp_path / "a.f32", np.float32).reshape(2, 2, 8, 8)
    expected = np.round((values + 1) * 127.5).astype(np.uint8).transpose(0, 2, 1, 3).reshape(16, 16)
    for name in ("a.png", "a.ppm", "a.pgm"):
        assert np.array_equal(np.asarray(Image.open(tmp_path / name).convert("L")), expected), name


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "ARTIFACT is missing"),
        (["--labels", "11"], "--labels is '11'; expected a whole number from 0 to 9"),
        (["--labels", "3,"], "--labels is ''"),
        (["-w", "much"], "'much' is not a number"),
        (["-w", "3@0.2"], "expected an interval as in 3@0.2-0.8"),
        (["--seed", "-1"], "--seed is '-1'"),
        (["--steps", "99999999999999999999"], "--steps is '99999999999999999999'"),
        (["--colour", "red"], "unknown option --colour"),
        (["--out"], "--out needs a value"),
        (["--out", "a.jpg"], "expected a name that ends in .png"),
        (["--out", "/nonexistent/a.png"], "cannot be written"),
        (["--noise", "/nonexistent/n.f32"], "/nonexistent/n.f32: cannot be read"),
        (["--steps", "1001"], "invalid argument: steps is 1001"),
    ],
)
def test_the_program_names_what_it_cannot_use(released: Path, artifact: Path, tmp_path: Path, options, text) -> None:
    given = [artifact, *options] if options else []
    done = run(released / "dashdeploy-sample", *given, cwd=tmp_path)
    assert done.returncode != 0
    assert text in done.stderr
    assert done.stderr.count("\n") == 1
