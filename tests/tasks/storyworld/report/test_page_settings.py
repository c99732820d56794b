from dataclasses import replace

import lit_narrative
from lit_narrative.tasks.storyworld.report.page import reproduce, settings
from lit_narrative.tasks.storyworld.report.run import Run


def test_configurations_are_printed(run: Run) -> None:
    body = settings(run).body
    assert "cycle/config.yaml" in body and "class_path: GRPOModule" in body and lit_narrative.__version__ in body


def test_a_missing_configuration_is_said(run: Run) -> None:
    bare = {name: replace(job, config=None) for name, job in run.jobs.items()}
    assert "No configuration was kept for sft, cycle" in settings(replace(run, jobs=bare)).body
    assert "no settings to show" in settings(replace(run, jobs={})).body


def test_the_commands_name_the_folder(run: Run) -> None:
    body = reproduce(run).body
    assert f"lit-narrative report {run.folder.out}" in body and f"--config {run.folder.out}/cycle/config.yaml" in body
    assert "seed 0" in body and "lit-narrative run" not in body and "does not say by which recipe" in body
    command = "lit-narrative run storyworld --out here --set a=b"
    assert f"<pre>{command}</pre>" in reproduce(replace(run, folder=replace(run.folder, command=command))).body


def test_the_time_of_the_jobs_is_told_where_it_is_known(run: Run) -> None:
    body = reproduce(run).body
    assert "3.4 minutes" in body and "<code>cycle</code> 120 s" in body
    assert "minutes" not in reproduce(replace(run, folder=replace(run.folder, seeds=()))).body
