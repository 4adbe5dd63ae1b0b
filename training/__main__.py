"""`python -m training COMMAND`: the parser only; a command's module is imported inside that command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from communique.errors import CommuniqueError
from training.files import REFUSED


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status: 0, 1 where a check failed, 2 after an error that was explained."""
    parsed = _parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed) or 0)
    except CommuniqueError as error:
        sys.stderr.write(f"training: {error}\n")
        return 2
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        place = error.filename2 or error.filename or "a file"
        sys.stderr.write(f"training: {place}: cannot be read or written: {error.strerror}.\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    corpus = commands.add_parser("corpus", help="check a corpus and print its statistics")
    corpus.add_argument("folder", nargs="?", default="datasets/statements", help="default: %(default)s")
    corpus.add_argument(
        "--deep", action="store_true", help="also wrong labels, giveaway words, and what TF-IDF reaches"
    )
    corpus.add_argument("--against", type=Path, metavar="FILE",
                        help="JSONL of real texts (text, perhaps intents): how far is the corpus from them; "
                        "implies --deep")  # fmt: skip
    corpus.add_argument("--out", type=Path, metavar="FOLDER", help="write report.json, report.txt and figures there")
    corpus.add_argument("--json", action="store_true", help="the report as JSON")
    corpus.set_defaults(run=_corpus)

    bring = commands.add_parser("import", help="CSV, TSV, JSONL, Parquet or a dataset folder to a corpus folder")
    bring.add_argument("file", type=Path, help="the texts; a folder may hold several splits")
    bring.add_argument("--validation", type=Path, metavar="FILE", help="default: cut from FILE, by group")
    bring.add_argument("--test", type=Path, metavar="FILE", help="default: cut from FILE, by group")
    bring.add_argument("--text", required=True, metavar="COLUMN")
    bring.add_argument("--labels", required=True, metavar="COLUMN", help="a label, or a list of labels")
    bring.add_argument("--separator", metavar="S", help="splits a string of several labels: the corpus is multi-label")
    bring.add_argument("--group", metavar="COLUMN", help="rows alike in it stay in one split")
    bring.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    bring.add_argument("--seed", type=int, default=0, help="of the split; default: %(default)s")
    bring.set_defaults(run=_import)

    train = commands.add_parser("train", help="train a config into a run folder, evaluate and track it")
    train.add_argument("config", help="a file of configs/")
    train.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
                       help="replace a value of the config; may be repeated")  # fmt: skip
    train.add_argument("--seeds", type=_count, metavar="N",
                       help="train the config's seed and the N - 1 after it, each into a run of its own")  # fmt: skip
    train.add_argument("--output", type=Path, metavar="DIR", help="the run's folder; default: runs/NAME-KEY")
    train.add_argument("--no-track", action="store_true", help="do not log to MLflow")
    train.set_defaults(run=_train)

    sweep = commands.add_parser("sweep", help="look for a better config by training many; goes on where it stopped")
    sweep.add_argument("config", nargs="?", default="configs/sweep.yaml", help="default: %(default)s")
    sweep.add_argument("--trials", type=_count, metavar="N", help="in all, in place of the config's number")
    sweep.add_argument("--no-track", action="store_true", help="do not log to MLflow")
    sweep.set_defaults(run=_sweep)

    evaluate = commands.add_parser("evaluate", help="evaluate a finished run, on its test split or another file")
    evaluate.add_argument("target", metavar="RUN", help="a run's folder, or a config's name for its newest run")
    evaluate.add_argument("--on", type=Path, metavar="FILE", help="labelled JSONL (text, intents); default: test")
    evaluate.add_argument("--prefix", default=None, help="name of the figures; default: the file's stem")
    evaluate.add_argument("--json", action="store_true", help="the figures as JSON")
    evaluate.set_defaults(run=_evaluate)

    compare = commands.add_parser("compare", help="rank finished runs; tell which differences between them are real")
    compare.add_argument("targets", metavar="RUN", nargs="*", help="a run's folder or name, or a folder of seeds")
    compare.add_argument("--all", action="store_true", help="every finished run in runs/")
    compare.add_argument("--split", default="test", metavar="NAME",
                         help="test, validation, or the prefix of an evaluated file; default: %(default)s")  # fmt: skip
    compare.add_argument("--json", action="store_true", help="the comparison as JSON")
    compare.add_argument("--out", type=Path, metavar="FOLDER", help="write JSON, CSV, Markdown and the figure there")
    compare.add_argument("--no-track", action="store_true", help="do not log to MLflow")
    compare.set_defaults(run=_compare)

    bias = commands.add_parser("bias", help="how often a finished run's answer changes when only the states change")
    bias.add_argument("target", metavar="RUN", help="a run's folder or name")
    bias.add_argument("--texts", type=_count, default=120, metavar="N",
                      help="test texts in which every state is tried; default: %(default)s")  # fmt: skip
    bias.add_argument("--json", action="store_true", help="the report as JSON")
    bias.set_defaults(run=_bias)

    report = commands.add_parser("report", help="analyse a finished run again and write its page, report.html")
    report.add_argument("target", metavar="RUN", help="a run's folder or name")
    report.set_defaults(run=_report)

    log = commands.add_parser("log", help="log a finished run to MLflow that was not logged, once")
    log.add_argument("target", metavar="RUN", help="a run's folder or name")
    log.set_defaults(run=_log)

    export = commands.add_parser("export", help="a finished run to a verified bundle")
    export.add_argument("target", metavar="RUN", help="a run's folder or name")
    export.add_argument(
        "--output", type=Path, default=Path("bundles/model"), metavar="DIR", help="default: %(default)s"
    )
    export.add_argument(
        "--whole", action="store_true", help="every text goes through all layers: slower, a little closer to fp32"
    )
    export.add_argument("--log-model", action="store_true", help="keep the bundle in MLflow as well (about 200 MB)")
    export.set_defaults(run=_export)

    package = commands.add_parser("package", help="a bundle to one wheel of runtime and model")
    package.add_argument("bundle", type=Path, nargs="?", default=Path("bundles/model"), help="default: %(default)s")
    package.add_argument("--output", type=Path, default=Path("dist"), metavar="DIR", help="default: %(default)s")
    package.set_defaults(run=_package)

    runs = commands.add_parser("runs", help="what lies in runs/: state, macro-F1, disk use")
    runs.add_argument("--delete-weights", nargs="+", default=[], metavar="RUN",
                      help="delete the weights of finished runs; figures and predictions stay")  # fmt: skip
    runs.set_defaults(run=_runs)

    promote = commands.add_parser("promote", help="register a run's bundle; make it champion where it passes the gate")
    promote.add_argument("target", metavar="RUN", help="a run's folder or name")
    promote.add_argument("--bundle", type=Path, default=Path("bundles/model"), metavar="DIR",
                         help="where it is exported to, or is already; default: %(default)s")  # fmt: skip
    promote.add_argument("--model", default="communique", metavar="NAME", help="in the registry; default: %(default)s")
    promote.add_argument("--force", metavar="REASON", help="make it champion whatever the gate says; kept with it")
    promote.set_defaults(run=_promote)

    rollback = commands.add_parser("rollback", help="make the champion before this one champion again")
    rollback.add_argument("--model", default="communique", metavar="NAME", help="in the registry; default: %(default)s")
    rollback.set_defaults(run=_rollback)

    ui = commands.add_parser("ui", help="open MLflow over this checkout's runs, on loopback")
    ui.add_argument("--port", type=int, default=5000, help="default: %(default)s")
    ui.set_defaults(run=_ui)
    return parser


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a number from 1, found {text!r}")
    return int(text)


def _corpus(parsed: argparse.Namespace) -> int:
    from training import audit

    return audit.report(
        Path(parsed.folder), deep=parsed.deep, against=parsed.against, out=parsed.out, as_json=parsed.json
    )


def _import(parsed: argparse.Namespace) -> int:
    from training.importer import Columns, convert

    files = {"train": parsed.file, "validation": parsed.validation, "test": parsed.test}
    columns = Columns(parsed.text, parsed.labels, parsed.group, parsed.separator)
    convert({split: file for split, file in files.items() if file}, columns, parsed.out, seed=parsed.seed)
    return 0


def _train(parsed: argparse.Namespace) -> int:
    from training import config, ranks
    from training.train import follow, train

    if ranks.number() > 0:
        follow()
        return 0
    with ranks.leading():
        settings = config.load(parsed.config, parsed.overrides)
        if parsed.seeds:
            from training import seeds

            numbers = range(settings.seed, settings.seed + parsed.seeds)
            each = [config.load(parsed.config, [*parsed.overrides, f"seed={number}"]) for number in numbers]
            seeds.train(each, parsed.output, track=not parsed.no_track)
        else:
            train(settings, parsed.output, track=not parsed.no_track)
    return 0


def _sweep(parsed: argparse.Namespace) -> int:
    from training import ranks
    from training.errors import SweepError
    from training.sweep import sweep

    if ranks.count() > 1:
        raise SweepError("processes share a sweep when each is started by itself; leave torchrun out.")
    sweep(parsed.config, parsed.trials, track=not parsed.no_track)
    return 0


def _evaluate(parsed: argparse.Namespace) -> int:
    from training import evaluation

    return evaluation.command(parsed.target, parsed.on, parsed.prefix, as_json=parsed.json)


def _compare(parsed: argparse.Namespace) -> int:
    from training import compare

    return compare.command(
        parsed.targets, everything=parsed.all, split=parsed.split, out=parsed.out, as_json=parsed.json,
        track=not parsed.no_track,
    )  # fmt: skip


def _bias(parsed: argparse.Namespace) -> int:
    from training import bias

    return bias.command(parsed.target, parsed.texts, as_json=parsed.json)


def _report(parsed: argparse.Namespace) -> int:
    from training import report

    return report.command(parsed.target)


def _log(parsed: argparse.Namespace) -> int:
    from training import nested
    from training.console import say

    say(f"logged as MLflow run {nested.log(Path(parsed.target))}")
    return 0


def _export(parsed: argparse.Namespace) -> int:
    from training import run
    from training.export import export

    folder = run.find_one(parsed.target)
    bundle = export(folder, parsed.output, early=not parsed.whole)
    if parsed.log_model:
        from training import tracking

        tracking.log_bundle(folder, bundle)
    return 0


def _package(parsed: argparse.Namespace) -> int:
    from training.console import say
    from training.package import digest, package

    wheel = package(parsed.bundle, parsed.output)
    say(f"{wheel}: {wheel.stat().st_size / 2**20:.1f} MiB, sha256 {digest(wheel)}")
    return 0


def _runs(parsed: argparse.Namespace) -> int:
    from training import shelf

    return shelf.command(parsed.delete_weights)


def _promote(parsed: argparse.Namespace) -> int:
    from training import promote

    return promote.command(parsed.target, parsed.bundle, parsed.model, parsed.force)


def _rollback(parsed: argparse.Namespace) -> int:
    from training import promote

    return promote.rollback(parsed.model)


def _ui(parsed: argparse.Namespace) -> int:
    from training import ui

    return ui.serve(parsed.port)


if __name__ == "__main__":
    from training import ranks

    ranks.leave(main())
