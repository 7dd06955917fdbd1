"""What a network learns by which losses: trainings by name, and everything measured of them.

    python -m benchmarks.learning STUDY [--data cifar10=FOLDER ...] [--seeds 0 1] [--rows NAME ...]
                                  [--images N] [--out DIR] [--list]

Studies and their rows stand in benchmarks/learning_studies.py. Each training is a run folder below
--out, in this process, with one thread; one that was interrupted goes on. What is measured goes as
one line into benchmarks/results/learning/STUDY.jsonl; rows that have theirs are left out. Two
commands with different seeds may run at once, which uses two threads of one core best.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.learning_studies import RANDOM, STUDIES, Study
from benchmarks.measures import Sets, measure
from benchmarks.rounds import commit, machine
from ibot.config.override import apply
from ibot.config.resolve import derive
from ibot.config.schema import Config
from ibot.engine.loop import train
from ibot.eval.baselines import random_start
from ibot.recipes import recipe
from ibot.studies.measured import knn_by_step
from ibot.studies.probes import Evaluated, probes
from ibot.system.device import prepared
from ibot.system.jsonl import append_jsonl, read_jsonl
from ibot.weights.head import projection_head
from ibot.weights.read import load, load_weights

RECORDS = Path(__file__).parent / "results" / "learning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row of a study with one seed."""

    study: str
    row: str
    seed: int
    config: Config
    settings: Sequence[str]
    """Those of study and row, as they stand there."""
    trained: bool
    curve: bool
    data: str
    folder: Path


def jobs_of(
    name: str,
    study: Study,
    *,
    data: Mapping[str, str],
    out: Path,
    rows: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> list[Job]:
    """Row by row, all seeds of each. Raises SystemExit for rows or data that are not known."""
    unknown = [row for row in rows if row not in study.rows]
    if unknown:
        raise SystemExit(f"no row '{unknown[0]}' in {name}: {', '.join(study.rows)}")
    if study.data not in data:
        raise SystemExit(f"where is {study.data}? --data {study.data}=FOLDER")
    jobs = []
    for row, settings in study.rows.items():
        if rows and row not in rows:
            continue
        for seed in seeds or study.seeds:
            own = [
                *(f"data.path={data[study.data]}", f"train.seed={seed}", "system.device=cpu"),
                *("system.threads=1", "system.workers=0", "log.tensorboard=false"),
                *("checkpoint.every=10 percent", "checkpoint.keep=1", "evaluate.match=0"),
            ]
            chosen = [*study.base, *(settings or ())]
            filled = [text.format(out=out, seed=seed) for text in chosen]
            job = Job(
                study=name,
                row=row,
                seed=seed,
                config=apply(recipe(study.recipe), [*own, *filled]),
                settings=chosen,
                trained=settings is not RANDOM,
                curve=study.curve,
                data=study.data,
                folder=out / name / f"{row.replace(' ', '-').replace(',', '')}-s{seed}",
            )
            jobs.append(job)
    return jobs


def run(job: Job, label_maps: str) -> dict[str, object]:
    """Train unless it is done or to be left random, and measure.

    Raises SystemExit where a signal stopped the training, which is saved: it is not measured.
    """
    config, size = job.config, job.config.augment.global_size[0]
    sets = Sets.of(config.data.path, label_maps)
    about_training: dict[str, object] = {}
    if job.trained:
        probe = None
        if job.curve:
            evaluated = Evaluated(sets.train, (sets.train, sets.val))
            probe = probes(config, evaluated, torch.device("cpu"), lambda _: None)
        state = train(config, job.folder, evaluate=probe, quiet=True)
        steps = derive(config, len(sets.train)).run_steps
        if state.step < steps:
            raise SystemExit(f"{job.row}, seed {job.seed}: stopped at step {state.step} of {steps}")
        loaded = load(job.folder)
        backbone = loaded.backbone
        head = projection_head(load_weights(job.folder), config.model.width, "teacher")
        about_training = {
            "images": state.images_seen,
            "seconds": round(_seconds(job.folder), 1),
            "curve": {
                str(found.step * config.train.batch): round(found.knn, 1)
                for found in knn_by_step(job.folder)
            },
            "settings": dict(pair.split("=", 1) for pair in job.settings),
        }
    else:
        backbone, head = (
            random_start(config.model, job.seed, built_for=config.augment.global_size),
            None,
        )
    with prepared("cpu", 1, False):
        found = measure(backbone, head, sets, size)
    return {
        **{"study": job.study, "row": job.row, "seed": job.seed, "data": job.data},
        **about_training,
        **{key: round(value, 2) for key, value in found.items()},
    }


def _seconds(folder: Path) -> float:
    """Of the steps of a run, waiting for data included, evaluations left out."""
    seconds = images = 0
    for row in read_jsonl(folder / "metrics.jsonl"):
        seconds += (row["images_seen"] - images) / row["images_per_second"]
        images = row["images_seen"]
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--label-maps", default="", metavar="FOLDER", help="to segment, too")
    parser.add_argument("--seeds", nargs="+", type=int, default=[])
    parser.add_argument("--rows", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"), metavar="DIR")
    parser.add_argument("--records", type=Path, default=RECORDS, metavar="DIR")
    options = parser.parse_args(arguments)
    data = dict(text.split("=", 1) for text in options.data)
    jobs = jobs_of(
        options.study,
        STUDIES[options.study],
        data=data,
        out=options.out,
        rows=options.rows,
        seeds=options.seeds,
    )
    record = options.records / f"{options.study}.jsonl"
    record.parent.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        known = {(row["row"], row["seed"]) for row in read_jsonl(record)}
        if (job.row, job.seed) in known:
            continue
        row = run(job, options.label_maps)
        append_jsonl(record, {**row, "commit": commit(), "machine": machine()})
        print(*(f"{key} {value}" for key, value in row.items() if key != "settings"), flush=True)


if __name__ == "__main__":
    main()
