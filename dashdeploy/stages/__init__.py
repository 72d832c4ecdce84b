"""The run folder: stages that are written whole or not at all, described by a manifest, and not run twice.

runs/<recipe>/<stage>/manifest.json holds the format version, the key (a hash of all that the stage depends on), the
SHA-256 of each file, the resolved recipe, versions, seed and figures. manifest.json.sha256 holds the manifest's hash in
sha256sum's format. What is at work is in runs/<recipe>/.work/<stage>/, where nothing looks for a finished stage: the
lock, checkpoints, the draft, and for a moment the stage that the draft replaces.
"""

from __future__ import annotations

from dashdeploy.stages.hashes import digest, file_sha256, files_below, folder_sha256
from dashdeploy.stages.lock import clear, exclusive, in_turn, mend, tidy, work_path
from dashdeploy.stages.read import (
    FORMAT,
    MANIFEST,
    SIDECAR,
    Stage,
    current,
    is_stage,
    read_manifest,
    read_stage,
    refuse_if_replaced,
    sidecar_text,
)
from dashdeploy.stages.reuse import differences, finished, refuse_to_replace
from dashdeploy.stages.vouched import replacing, undamaged
from dashdeploy.stages.write import Draft, open_run, replacing_folder, stage_key, versions, write_stage

__all__ = [
    "FORMAT",
    "MANIFEST",
    "SIDECAR",
    "Draft",
    "Stage",
    "clear",
    "current",
    "differences",
    "digest",
    "exclusive",
    "file_sha256",
    "files_below",
    "finished",
    "folder_sha256",
    "in_turn",
    "is_stage",
    "mend",
    "open_run",
    "read_manifest",
    "read_stage",
    "refuse_if_replaced",
    "refuse_to_replace",
    "replacing",
    "replacing_folder",
    "sidecar_text",
    "stage_key",
    "tidy",
    "undamaged",
    "versions",
    "work_path",
    "write_stage",
]
