"""
Run the checks of MONAI's model zoo on the bundle's archive, without a network.

    python tests/integration/verify_in_model_zoo.py --model_zoo /data/model-zoo --schema /data/meta_schema_20240725.json

Needs a clone of https://github.com/Project-MONAI/model-zoo and the schema that ``bundle/configs/metadata.json`` names.
The clone is left as it is: its ``ci`` folder is copied, and all else is made in a temporary folder.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the checks of MONAI's model zoo on the bundle's archive.")
    parser.add_argument("--model_zoo", type=Path, required=True, help="a clone of Project-MONAI/model-zoo")
    parser.add_argument("--schema", type=Path, required=True, help="the schema that metadata.json names")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        zoo, models = Path(folder), Path(folder) / "models"
        shutil.copytree(options.model_zoo / "ci", zoo / "ci")
        release = [sys.executable, "-m", "scripts", "release", "--output_dir", str(zoo / "dist")]
        subprocess.run(release, cwd=ROOT / "bundle", check=True)
        shutil.unpack_archive(next((zoo / "dist").glob("*.zip")), models)
        bundle = next(models.iterdir())
        (models / "model_info.json").write_text("{}")  # the zoo's list of versions that it has
        (bundle / "eval").mkdir()
        shutil.copy(options.schema, bundle / "eval" / "schema.json")
        subprocess.run([sys.executable, "ci/verify_bundle.py", "-b", bundle.name], cwd=zoo, check=True)
    print(f"{bundle.name}: all checks of the model zoo passed")


if __name__ == "__main__":
    main()
