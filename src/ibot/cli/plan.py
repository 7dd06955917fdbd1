"""`ibot plan`: what a run will do and need, by a short trial here or by formula for elsewhere."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibot.cli.arguments import COUNT, LENGTH
from ibot.cli.parser import Commands
from ibot.cli.train import asked_by, declare_run, sayer
from ibot.errors import UserError
from ibot.system.accelerators import ACCELERATORS, Accelerator

if TYPE_CHECKING:
    from ibot.studies.forecast import Forecast
    from ibot.studies.settings import Asked

HERE = ("auto", "cpu", "cuda", "mps")
"""Devices of this machine, by the beginning of their names."""
ELSEWHERE = ("images", "devices", "nodes", "price", "fit")
"""Options that ask for a forecast."""


def declare(commands: Commands) -> None:
    """Declare `ibot plan`."""
    summary = "what a run would do and need: time, memory, disk, by a short trial or by formula"
    parser = commands.add("plan", summary, run)
    parser.epilog = (
        "by formula, for a machine that is not here: --device "
        f"{', '.join(ACCELERATORS)}; without data with --images"
    )
    declare_run(parser)
    # Not named `processes`, which starts them: one tries what each of them would do.
    words = "reckon for N processes, one per GPU, that share train.batch; none is started"
    parser.add_argument("--processes", dest="shares", type=COUNT, metavar="N", help=words)
    devices = "by formula: N devices in each machine (1)"
    parser.add_argument("--devices", type=COUNT, metavar="N", help=devices)
    parser.add_argument("--nodes", type=COUNT, metavar="N", help="by formula: N machines")
    images = "by formula: of a data set of N images, which need not be here"
    parser.add_argument("--images", type=COUNT, metavar="N", help=images)
    price = "by formula: what a device costs an hour"
    parser.add_argument("--price", type=LENGTH, metavar="PRICE", help=price)
    fit = "which network, views and length fit into a time, such as 12h, 90min or 2d"
    parser.add_argument("--fit", type=_hours, metavar="TIME", help=fit)
    parser.add_argument("--json", action="store_true", help="the numbers as JSON, for programs")


def _hours(text: str) -> float:
    from ibot.studies.within import hours_of

    try:
        return hours_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(options: argparse.Namespace) -> None:
    """Print the plan; train a few steps for it where it is for this machine, and keep nothing."""
    named = ACCELERATORS.get((options.device or "").lower())
    if options.device and named is None and not options.device.startswith(HERE):
        raise UserError(
            f"unknown device '{options.device}'",
            fix=f"auto, cpu, cuda or mps of this machine, or by formula {', '.join(ACCELERATORS)}",
        )
    if named is None and all(getattr(options, name) is None for name in ELSEWHERE):
        _trial(options)
        return
    if named is not None:
        options.device = None
    _forecast(options, named)


def _trial(options: argparse.Namespace) -> None:
    """By a short trial here."""
    from ibot.studies.settings import prepare

    processes = options.shares or 1
    say = (lambda text: None) if options.json else print
    heard = say if options.json else sayer(options)
    prepared = prepare(asked_by(options), processes, heard)
    from ibot.config.resolve import derive
    from ibot.studies.plan import lines, make_plan, plain
    from ibot.studies.pretraining import describe

    config, source = prepared.config, prepared.source
    folder = Path(options.run_folder or "runs/...")
    derived = derive(config, len(source), processes)
    describe(config, derived, source, folder=folder, world_size=processes, say=say)
    for note in prepared.notes:
        say(f"note   {note}")
    plan = make_plan(config, source, processes)
    for line in lines(plan):
        say(line)
    if options.json:
        _print_json(plain(plan))


def _forecast(options: argparse.Namespace, named: Accelerator | None) -> None:
    """By formula of a device by name; of this one by steps of random images, measured now."""
    from ibot.studies.ahead import planned, refuse_incomplete
    from ibot.studies.forecast import Forecast, Machine
    from ibot.studies.forecast_words import lines
    from ibot.studies.going_on import is_run

    asked, load, device = asked_by(options), None, named
    if options.fit and is_run(asked.folder):
        raise UserError(
            "--fit chooses a network",
            why=f"the run in '{asked.folder}' has its own",
            fix="name a recipe, and leave --run out",
        )
    if device is None:
        refuse_incomplete(asked, options.images or 0)  # before anything is measured
        from ibot.studies.probing import this_device
        from ibot.system.device import choose_device
        from ibot.system.load import Load

        load = Load()
        device = this_device(choose_device(options.device or "auto"))
    machine = Machine(
        device=device, devices=options.devices or options.shares or 1, nodes=options.nodes or 1
    )
    heard = (lambda text: None) if options.json else sayer(options)
    if options.nodes and options.devices is None and device.gpu:
        heard("note   one device in each machine: --devices N for more")
    found = planned(asked, machine, options.images or 0, heard)
    forecast = Forecast(
        config=found.config,
        machine=machine,
        images=found.images,
        price=options.price or 0.0,
    )
    others = ""
    if load is not None:
        from ibot.studies.probing import beside, probe

        if images := min(forecast.micro_batch, forecast.largest):
            forecast = replace(forecast, probe=probe(found.config, images))
        others = beside(load)
    if options.fit:
        _fit(options, asked, forecast, others)
    elif options.json:
        _print_json({**_plain(forecast), "load": others})
    else:
        for line in lines(forecast):
            print(line)
        if others:
            print(f"load   {others}")


def _fit(options: argparse.Namespace, asked: Asked, forecast: Forecast, load: str) -> None:
    """Which way to spend the time."""
    from ibot.studies.forecast_words import device
    from ibot.studies.within import calibrated, lines, plain, ways

    found = ways(calibrated(forecast), options.fit)
    if options.json:
        _print_json({"hours": options.fit, "ways": plain(found), "load": load})
        return
    print(f"device {device(forecast)}")
    own = ("train.length", "train.accumulate", "augment.num_local", "data.path", "model.width")
    own = (*own, "model.depth", "model.heads", "system.device")
    given = [text for text in asked.settings if text.partition("=")[0] not in own]
    for line in lines(found, options.fit, ["--data", options.data or "DIR", *given]):
        print(line)
    if load:
        print(f"load   {load}")


def _plain(forecast: Forecast) -> dict[str, Any]:
    from ibot.studies.forecast_words import plain

    return plain(forecast)


def _print_json(whole: dict[str, Any]) -> None:
    print(json.dumps(whole, indent=2))
