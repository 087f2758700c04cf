"""Runs that MLflow keeps, in a file of SQLite."""

from __future__ import annotations

import pytest
from ignite.engine import Events
from monai.utils import optional_import
from test_configs import SMALL_PREDICTION, SMALL_TRAINING, workflow

mlflow, has_mlflow = optional_import("mlflow")
pytestmark = pytest.mark.skipif(not has_mlflow, reason="mlflow is not installed: pip install '.[tracking]'")


def tracked(*configs, output_dir, **settings):
    """Run with ``--tracking mlflow``, and return what is kept: the runs, and the names of each one's files."""
    ready = workflow(*configs, tracking="mlflow", output_dir=str(output_dir), **settings)
    ready.initialize()
    ready.run()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{output_dir}/mlruns.db")
    experiment = client.get_experiment_by_name("rib_fractures")
    runs = client.search_runs([experiment.experiment_id])
    kept = [{file.path for file in client.list_artifacts(run.info.run_id)} for run in runs]
    return client, runs, kept


@pytest.mark.slow
def test_a_training(ribfrac_dir, tmp_path):
    settings = SMALL_TRAINING | {"dataset_dir": str(ribfrac_dir), "max_epochs": 2}
    client, (run,), (kept,) = tracked("train.yaml", kind="train", run_id="training", output_dir=tmp_path, **settings)
    assert run.info.status == "FINISHED"
    params = {
        "max_epochs": "2",
        "learning_rate": "0.001",
        "rois.roi_size": "[16, 16, 16]",
        "hard_examples.file": "None",
    }
    assert params.items() <= run.data.params.items()
    steps = [len(client.get_metric_history(run.info.run_id, name)) for name in ("train_loss", "validation_loss")]
    assert steps == [4, 2]  # two scans, one a step; two epochs
    assert {"config.yaml", "curves.csv", "curves.png"} <= kept


@pytest.mark.slow
def test_an_evaluation_keeps_its_curve(ribfrac_dir, model, tmp_path):
    settings = SMALL_PREDICTION | {"dataset_dir": str(ribfrac_dir), "checkpoint": str(model), "bootstrap": 10}
    _, (run,), (kept,) = tracked(
        "inference.yaml", "evaluate.yaml", run_id="evaluating", output_dir=tmp_path, **settings
    )
    assert run.info.status == "FINISHED" and "froc" in run.data.metrics
    assert run.data.params["candidates.threshold"] == "0.1"
    assert {"config.yaml", "froc.png", "froc.csv", "metrics.json"} <= kept


def test_a_run_that_was_killed_goes_on_also_with_another_setting(ribfrac_dir, model, tmp_path):
    settings = SMALL_PREDICTION | {"dataset_dir": str(ribfrac_dir), "checkpoint": str(model)}
    killed = workflow("inference.yaml", tracking="mlflow", output_dir=str(tmp_path), **settings)
    killed.initialize()
    evaluator = killed.parser.get_parsed_content("evaluator")
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, stop)
    with pytest.raises(KeyboardInterrupt):
        evaluator.run()
    _, (run,), (kept,) = tracked("inference.yaml", output_dir=tmp_path, **settings | {"num_workers": 1})
    assert run.info.status == "FINISHED" and run.data.params["num_workers"] == "0" and "config.yaml" in kept


def stop(engine):
    raise KeyboardInterrupt
