"""treadle init and treadle new: files to start from."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from treadle_runtime.commands.hint import next_command


@click.command("init")
@click.argument("name")
@click.option(
    "--template",
    type=click.Choice(["flights", "minimal"]),
    default="flights",
    show_default=True,
    help="What to start from",
)
@click.option(
    "--from",
    "data",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A CSV or Parquet file of your own",
)
@click.option("--label", metavar="COLUMN", help="With --from: the column to predict")
@click.option("--time", metavar="COLUMN", help="With --from: when a row happened")
@click.option("--entity", metavar="COLUMN", help="With --from: whom a row is about")
def init(name: str, template: str, data: Path | None, label: str | None, time: str | None, entity: str | None) -> None:
    """Write a new project that builds

    \b
    Examples:
      treadle init flights
      treadle init churn --from orders.csv --label churned --time ts --entity customer_id
    """
    from treadle.errors import Problem, UsageError
    from treadle_scaffold.from_data import init_from
    from treadle_scaffold.template import init as write_template

    target = Path(name)
    if data is None:
        if label or time or entity:
            fix = "add --from FILE, or leave --label, --time and --entity out"
            raise UsageError(Problem("TR603", "--label, --time and --entity need --from", fix=fix))
        written = write_template(target, name=target.name, template=template)
    else:
        if label is None:
            raise UsageError(Problem("TR603", "--from needs --label", fix="add --label COLUMN, the column to predict"))
        written = init_from(target, name=target.name, data=data, label=label, time=time, entity=entity)
    click.echo(f"wrote {len(written)} files to {target}/")
    click.echo(f"next: cd {shlex.quote(str(target))} && treadle build")


@click.command("new")
@click.argument("kind", type=click.Choice(["feature", "dataset", "model", "pipeline", "test"]))
@click.argument("name")
@click.option("--python", is_flag=True, help="Write a feature as a Python function instead of SQL")
@click.option(
    "--project",
    "folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=".",
    help="Folder of the project, or one below it",
)
def new(kind: str, name: str, python: bool, folder: Path) -> None:
    """Add a feature, dataset, model, pipeline or test that compiles

    \b
    Examples:
      treadle new feature customer_history
      treadle new test no_orders_from_the_future
    """
    from treadle.files import find_root
    from treadle_scaffold.piece import new as write_piece

    root = find_root(folder)
    path = write_piece(root, kind, name, python=python)
    click.echo(f"wrote {path.relative_to(root)}")
    click.echo(f"next: {next_command('compile')}")
