"""The bundle for Claude Desktop: `python -m distribution.bundle --out FOLDER` writes qdrant-model-migration.mcpb there.

The source with its manifest, its icon and a lock of its requirements; the host installs the rest with uv. `--staged` only lays the files out, for
whoever packs them by other means. Needs uv, and Node's npx for `mcpb`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from qdrant_model_migration import __version__

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("pyproject.toml", "README.md", "LICENSE", "server/qdrant_model_migration", "skill")
SIDE = 128


def stage(folder: Path) -> None:
    """Lay out what the bundle holds.

    Raises:
        SystemExit: the manifest tells another version than the package has.
    """
    manifest = json.loads((ROOT / "distribution" / "mcpb" / "manifest.json").read_text(encoding="utf-8"))
    if manifest["version"] != __version__:
        raise SystemExit(f"distribution/mcpb/manifest.json is of version {manifest['version']}, the package of {__version__}.")
    for part in PARTS:
        source, target = ROOT / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    icon().save(folder / "icon.png")


def icon(side: int = SIDE) -> Image.Image:
    """The server's icon, for hosts that show no SVG: a point that becomes another."""
    scale = 4 * side / 24
    drawn = Image.new("RGBA", (4 * side, 4 * side))
    pen = ImageDraw.Draw(drawn)

    def at(*numbers: float) -> list[float]:
        return [number * scale for number in numbers]

    pen.rounded_rectangle(at(0, 0, 24, 24), radius=5 * scale, fill="#4527a0")
    pen.ellipse(at(3, 8, 11, 16), outline="white", width=round(2 * scale))
    pen.line(at(12, 12, 18, 12), fill="white", width=round(2 * scale))
    pen.line(at(15, 9, 18, 12, 15, 15), fill="white", width=round(2 * scale), joint="curve")
    return drawn.resize((side, side), Image.Resampling.LANCZOS)


def main(argv: Sequence[str] | None = None) -> None:
    """Stage, lock, and pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the bundle; it must be there")
    parser.add_argument("--staged", action="store_true", help="only lay the files out there")
    asked = parser.parse_args(argv)
    staged = asked.out if asked.staged else asked.out / "staged"
    stage(staged)
    if asked.staged:
        return
    subprocess.run(["uv", "lock", "--directory", str(staged)], check=True)
    subprocess.run(["npx", "@anthropic-ai/mcpb", "pack", str(staged), str(asked.out / "qdrant-model-migration.mcpb")], check=True)
    shutil.rmtree(staged)
    sys.stdout.write(f"Wrote {asked.out / 'qdrant-model-migration.mcpb'}\n")


if __name__ == "__main__":
    main()
