"""What is kept offline: a newer package takes over when the user says so, and a damaged file is never kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.web.browsing import Chromium, Server

pytestmark = pytest.mark.slow

HELPERS = """
const ready = () => page.waitForFunction(() => document.getElementById("status").textContent === "Ready."
  || !document.getElementById("alert").hidden);
const kept = () => page.waitForFunction(() =>
  document.getElementById("offline").textContent === "Kept for offline use.");
const title = () => page.textContent("h1");
"""


def test_a_newer_package_waits_until_the_user_takes_it(
    chromium: Chromium, package: Path, newer: Path, tmp_path: Path
) -> None:
    link = tmp_path / "served"
    link.symlink_to(package)

    with Server(link, {}) as server:
        handler: Any = server.server.RequestHandlerClass
        plain = handler.func.do_GET

        def do_GET(self: Any) -> None:
            if self.path == "/swap":
                link.unlink()
                link.symlink_to(newer)
            plain(self)

        handler.func.do_GET = do_GET
        code = f"""{HELPERS}
        await page.goto(args.url);
        await ready();
        await kept();
        const first = await title();
        await page.evaluate(() => fetch("/swap"));
        await page.goto(args.url);
        await ready();
        const second = await title();
        await page.waitForSelector("#newer:not([hidden])");
        await Promise.all([page.waitForEvent("load"), page.click("#newer")]);
        await ready();
        const third = await title();
        await kept();
        const caches = await page.evaluate(() => caches.keys());
        return [first, second, third, caches.length, await page.textContent("#alert")];
        """
        seen = chromium.visit(code, {"url": f"{server.address}/"})
    first, second, third, caches, _ = seen.value
    assert (first, second, third, caches) == ("tiny", "tiny", "A <b>newer</b> page & more", 1)
    assert seen.errors == []


def test_a_damaged_file_is_not_kept(chromium: Chromium, package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "web"
    shutil.copytree(package, folder)
    whole = (folder / "artifact" / "step.onnx").read_bytes()
    (folder / "artifact" / "step.onnx").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with Server(folder, {}) as server:
        code = f"""{HELPERS}
        await page.goto(args.url);
        await ready();
        const alert = await page.textContent("#alert");
        return [alert, await page.evaluate(async () => {{
          const [key] = await caches.keys();
          return (await (await caches.open(key)).keys()).map((request) => request.url);
        }})];
        """
        alert, urls = chromium.visit(code, {"url": f"{server.address}/"}).value
    assert alert.startswith("artifact/step.onnx: damaged or changed since it was made")
    names = {url.removeprefix(f"{server.address}/") for url in urls}
    assert "page.js" in names and "artifact/step.onnx" not in names
