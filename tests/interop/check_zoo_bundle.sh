#!/usr/bin/env bash
# Checks an exported bundle as the MONAI model zoo does, with the zoo's own scripts, and as its users will run it: from
# another folder, in an environment without this project.
#   PYTHON=/path/to/python bash tests/interop/check_zoo_bundle.sh MODEL_ZOO EXPORT [ORIGINAL]
#     MODEL_ZOO  a checkout (or bare clone) of https://github.com/Project-MONAI/model-zoo
#     EXPORT     the folder written by `tskd export --to zoo`, with its unit test beside it
#     ORIGINAL   the student bundle it was made from: both must segment a phantom identically, voxel for voxel
#     PYTHON     environment with the packages of the bundle's metadata, parameterized and jsonschema; not this project
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)"
die() {
  printf 'check_zoo_bundle: %s\n' "$*" >&2
  exit 2
}
say() { printf '\n== %s\n' "$*"; }

[ $# -ge 2 ] || die "expected MODEL_ZOO EXPORT [ORIGINAL]; they are explained at the top of this script."
python="${PYTHON:-}"
[ -n "$python" ] || die "expected PYTHON=/path/to/python of an environment without this project."
git -C "$1" cat-file -e HEAD:ci/verify_bundle.py 2>/dev/null || die "expected a checkout of the model zoo at $1, found none."
zoo="$(cd -- "$1" && pwd)"
[ -f "$2/configs/metadata.json" ] || die "expected an exported bundle at $2, found no configs/metadata.json there."
export="$(cd -- "$2" && pwd)"
name="$(basename -- "$export")"
test="$(dirname -- "$export")/test_$name.py"
[ -f "$test" ] || die "expected the unit test $test, found none; export again."
original=""
[ $# -lt 3 ] || original="$(cd -- "$3" && pwd)"

work="$(mktemp -d)"
trap 'rm -rf -- "$work"' EXIT
unset PYTHONPATH
cd -- "$work"
if "$python" -c 'import tskd_monai' 2>/dev/null; then
  die "expected an environment without tskd_monai; $python can import it, so the bundle's own code would not be tested."
fi
"$python" -c '
import importlib.util, sys, monai, numpy, torch
print("Python", sys.version.split()[0], "MONAI", monai.__version__, "numpy", numpy.__version__, "torch", torch.__version__)
print("tskd_monai:", importlib.util.find_spec("tskd_monai"))'

say "The zoo's ci/verify_bundle.py ($(git -C "$zoo" log -1 --format='%h, %cs')), all of it"
git -C "$zoo" archive HEAD ci models/model_info.json | tar -x
cp -r -- "$export" "models/$name"
cp -- "$test" "ci/unit_tests/test_$name.py"
mkdir "models/$name/eval"
# The file that ci/prepare_schema.py downloads.
cp -- "$root/tests/bundles/meta_schema_20240725.json" "models/$name/eval/schema.json"
# Added by a pull request, as for other bundles: a diffusion model is not a function of an image only, and neither it
# nor a foundation model from transformers can be scripted.
skipped=()
if grep -q '_target_.*load_diffusion_pipeline' "models/$name/configs/inference."*; then
  skipped=(shape torchscript)
elif grep -q '_target_.*load_teacher' "models/$name/configs/inference."*; then
  skipped=(torchscript)
fi
for check in "${skipped[@]}"; do
  printf "exclude_verify_%s_list.append('%s')\n" "$check" "$name" | tee -a ci/bundle_custom_data.py
done
"$python" ci/verify_bundle.py --b "$name"

say "The bundle's unit test by the zoo's ci/unit_tests/runner.py"
"$python" ci/unit_tests/runner.py --b "$name"
rm -rf -- "models/$name"

say "From another folder, by --bundle_root alone"
bundle="$work/elsewhere/$name"
mkdir elsewhere empty
cp -r -- "$export" "$bundle"
cd empty
config="$(ls "$bundle"/configs/inference.*)"
"$python" - "$bundle" "$config" "$root/tests/bundles/meta_schema_20240725.json" "${skipped[@]}" <<'PY'
import sys
from pathlib import Path

import torch
from monai.bundle import ckpt_export, onnx_export, verify_metadata, verify_net_in_out

bundle, config, schema, *skipped = sys.argv[1:]
meta, weights = f"{bundle}/configs/metadata.json", f"{bundle}/models/model.pt"
verify_metadata(meta_file=meta, filepath=schema)
network = {"net_id": "network_def", "meta_file": meta, "config_file": config, "bundle_root": bundle}
if "shape" not in skipped:
    verify_net_in_out(**network)
if "torchscript" not in skipped:
    ckpt_export(filepath="model.ts", ckpt_file=weights, **network)
    # By tracing: otherwise MONAI below 1.6 passes torch a scripted network, which the exporter of torch 2.9 rejects.
    onnx_export(filepath="model.onnx", ckpt_file=weights, use_trace=True, **network)
    torch.jit.load("model.ts")
    print({path.name: path.stat().st_size for path in Path().glob("model.*")}, "bytes")
PY

if [ -n "$original" ]; then
  say "The original and the export segment a phantom alike"
  own="${PROJECT_PYTHON:-$root/.venv/bin/python}"
  PYTHONPATH="$root" "$own" -m tskd_monai phantom "$work/study" --training 1 --validation 0 --test 0
  image="$(ls "$work"/study/images/*.nii.gz | head -n 1)"
  PYTHONPATH="$root" "$own" -m monai.bundle run --bundle_root "$original" \
    --config_file "$original/configs/inference.json" --image "$image" --engine torch --output_dir "$work/original"
  "$python" -m monai.bundle run --bundle_root "$bundle" --config_file "$config" --image "$image" \
    --engine torch --output_dir "$work/exported"
  "$python" - "$work" <<'PY'
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

first, second = (nib.load(next(Path(sys.argv[1], part).glob("*_seg.nii.gz"))) for part in ("original", "exported"))
voxels, others = np.asarray(first.dataobj), np.asarray(second.dataobj)
different = int((voxels != others).sum())
counts = dict(zip(*(part.tolist() for part in np.unique(voxels, return_counts=True))))
print(f"{voxels.shape} voxels, by label {counts}: {different} differ; affines equal: {(first.affine == second.affine).all()}")
sys.exit(bool(different) or not (first.affine == second.affine).all())
PY
fi
say "Everything passed for $name"
