"""The bundles on disk as parameters, and a small valid bundle in which to plant faults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.bundles.bundle_layout import ROOT, bundle_folders, config_files, is_override, runs

BUNDLES = bundle_folders()
CONFIGS = [path for bundle in BUNDLES for path in config_files(bundle)]

LOGGING = """[loggers]
keys=root

[handlers]
keys=console

[formatters]
keys=plain

[logger_root]
level=INFO
handlers=console

[handler_console]
class=StreamHandler
level=INFO
formatter=plain
args=(sys.stdout,)

[formatter_plain]
format=%(levelname)s - %(message)s
"""

TRAIN = """# Trains.
imports:
  - $import glob
bundle_root: .
device: $torch.device('cpu')
dataset_dir: $@bundle_root + '/data'
epochs: 2
network_def: {_target_: UNet, spatial_dims: 2, in_channels: 1, out_channels: 2, channels: [4, 8], strides: [2]}
network: $@network_def.to(@device)
val_interval: 1
train:
  dataset: {_target_: Dataset, data: $glob.glob(@dataset_dir + '/*')}
  dataloader: {_target_: DataLoader, dataset: '@train#dataset', batch_size: 1}
  inferer: {_target_: SimpleInferer}
  handlers: []
  trainer:
    _target_: SupervisedTrainer
    max_epochs: '@epochs'
    train_handlers: '@train#handlers'
validate:
  dataset: {_target_: Dataset, data: []}
  evaluator: {_target_: SupervisedEvaluator}
run:
  - $@train#trainer.run()
"""

INFERENCE = """# Segments.
bundle_root: .
device: $torch.device('cpu')
dataset_dir: data
network_def: {_target_: UNet, spatial_dims: 2, in_channels: 1, out_channels: 2, channels: [4, 8], strides: [2]}
preprocessing: {_target_: Compose, transforms: []}
postprocessing: {_target_: Compose, transforms: []}
dataset: {_target_: Dataset, data: []}
inferer: {_target_: SimpleInferer}
evaluator: {_target_: SupervisedEvaluator}
run:
  - $@evaluator.run()
"""

OVERRIDE = """# python -m monai.bundle run --config_file "['configs/train.yaml',
#   'configs/multi_gpu_train.yaml']"
device: $torch.device('cpu', 0)
train#sampler: {_target_: DistributedSampler, dataset: '@train#dataset'}
train#dataloader#sampler: '@train#sampler'
+train#handlers: []
initialize:
  - $monai.utils.set_determinism(1)
"""

METADATA = {
    "schema": "https://example.org/meta_schema_20240725.json",
    "version": "0.1.0",
    "changelog": {"0.1.0": "first"},
    "monai_version": "1.6.1",
    "pytorch_version": "2.13.0",
    "numpy_version": "2.4.6",
    "required_packages_version": {},
    "name": "Scratch",
    "task": "none",
    "description": "a bundle to plant faults in",
    "authors": "nobody",
    "copyright": "none",
    "network_data_format": {
        "inputs": {
            "image": {
                "type": "image",
                "format": "magnitude",
                "num_channels": 1,
                "spatial_shape": [16, 16],
                "dtype": "float32",
                "value_range": [0, 1],
            }
        },
        "outputs": {},
    },
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrises `bundle`, `config`, `override` and `run` with what is on disk."""
    if "bundle" in metafunc.fixturenames:
        metafunc.parametrize("bundle", BUNDLES, ids=[path.name for path in BUNDLES], indirect=True)
    if "config" in metafunc.fixturenames:
        metafunc.parametrize("config", CONFIGS, ids=[f"{path.parts[-3]}-{path.stem}" for path in CONFIGS])
    if "override" in metafunc.fixturenames:
        found = [path for path in CONFIGS if is_override(path)]
        metafunc.parametrize("override", found, ids=[f"{path.parts[-3]}-{path.stem}" for path in found])
    if "run" in metafunc.fixturenames:
        found_runs = [run for bundle in BUNDLES for run in runs(bundle)]
        ids = [f"{run[0].parts[-3]}-{'+'.join(path.stem for path in run)}" for run in found_runs]
        metafunc.parametrize("run", found_runs, ids=ids)


@pytest.fixture
def bundle(request: pytest.FixtureRequest) -> Path:
    """Return the folder of one bundle; fail where one of the four is missing."""
    folder: Path = request.param
    if not folder.is_dir():
        pytest.fail(f"bundles/{folder.name} is missing")
    return folder


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Return a small bundle in which every check finds nothing: train, inference and one override."""
    folder = tmp_path / "scratch"
    (folder / "configs").mkdir(parents=True)
    (folder / "docs").mkdir()
    (folder / "docs" / "README.md").write_text("# Scratch\n", encoding="utf-8")
    shutil.copy(ROOT / "LICENSE", folder / "LICENSE")
    texts = {"train.yaml": TRAIN, "inference.yaml": INFERENCE, "multi_gpu_train.yaml": OVERRIDE}
    texts |= {"logging.conf": LOGGING, "metadata.json": json.dumps(METADATA)}
    for name, text in texts.items():
        (folder / "configs" / name).write_text(text, encoding="utf-8")
    return folder
