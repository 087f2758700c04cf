#!/usr/bin/env bash
# Shows the whole bundle at work: makes the environment (in .venv, on first use), generates synthetic chest CTs, fetches
# one real chest CT, predicts both, scores the synthetic ones, and says what it wrote. Everything stays in this folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./environment.sh
use_environment ""

# MONAI's notice that a config can run code, for the bundle's own configs
export PYTHONWARNINGS="ignore:parsing config_file"
results="$PWD/output/demo"
phantoms="$PWD/data/demo_phantoms"
sample="$PWD/data/sample_ct"
cd bundle

echo "Four steps. The times are those of two cores: about two and a half minutes in all."
echo "== 1 of 4: synthetic scans with fractures, no patient's data (about 40 seconds)"
python -m scripts phantom --output_dir "$phantoms" --training 0 --validation 0 --test 3 --size slab --seed 2026

echo "== 2 of 4: predict and score them (about a minute)"
python -m monai.bundle run evaluating --config_file "['configs/inference.yaml','configs/evaluate.yaml']" \
  --dataset_dir "$phantoms" --output_dir "$results/synthetic"

echo "== 3 of 4: fetch a real chest CT (some seconds, as the network allows)"
if python -m scripts sample_ct --output_dir "$sample"; then
  echo "== 4 of 4: predict it (about 40 seconds)"
  python -m monai.bundle run inference --config_file configs/inference.yaml \
    --dataset_dir "$sample/images" --output_dir "$results/real_ct"
else
  echo "== 4 of 4: left out, because the real chest CT could not be had (see above)" >&2
fi

cat <<MESSAGE

Done. The weights saw synthetic and implanted fractures only; for research, not for clinical use.
  $results/synthetic/report.html   all of it to look at, in a browser
  $results/synthetic/pictures/     annotated and predicted fractures of the synthetic scans, side by side
  $results/synthetic/metrics.json  their FROC score, as the RibFrac challenge counts; froc.png is the curve
MESSAGE
if [ -d "$results/real_ct" ]; then
  echo "  $results/real_ct/report.html   the same of the real CT"
  echo "  $results/real_ct/pictures/     what was marked in the real CT (nobody has annotated a fracture in it)"
fi
cat <<MESSAGE
  .../fractures.csv              a row for each candidate: score, place in mm, volume, side
  .../predictions/               a mask for each scan, one id for each candidate, in the challenge's layout
Next (docs/get-started.md tells more):
  . .venv/bin/activate && cd bundle
  python -m monai.bundle run inference --config_file configs/inference.yaml --dataset_dir YOUR_SCANS
  python -m monai.bundle run training --config_file configs/train.yaml --dataset_dir RIBFRAC

Open this in a browser: $results/synthetic/report.html
MESSAGE
