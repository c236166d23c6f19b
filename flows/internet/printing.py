"""`headrace plan --corpus` as people read it: the answer first, then the stages, the limits, and what it rests on."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.internet.limits import LIMITS
from flows.internet.plan import CorpusPlan
from flows.internet.recipe import ClusterConfig, CorpusRecipe, CrawlConfig


def print_corpus_plan(console: Console, planned: CorpusPlan, recipe: CorpusRecipe, sources: bool = False) -> None:
    """Print a plan; with `sources` each number that it rests on, and where that comes from."""
    console.print(_headline(planned, recipe), highlight=False, soft_wrap=True)
    console.print(_stages(planned))
    console.print(_totals(planned, recipe))
    first, *others = planned.limits
    console.print(
        f"[bold]{first.limit}[/] binds first: {first.seconds / 36 / planned.hours:.0f} % of the time, in "
        f"{', '.join(first.stages)} ({LIMITS[first.limit]}).",
        highlight=False,
    )
    for share in others:
        console.print(
            f"  then {share.limit}: {share.seconds / 36 / planned.hours:.0f} %, in {', '.join(share.stages)}",
            highlight=False,
        )
    for sentence in planned.does_not_fit:
        console.print(f"[red]This does not fit[/]: {escape(sentence)}.", highlight=False)
    console.print(_training(planned), highlight=False)
    if sources:
        console.print(_sources(recipe))
    else:
        console.print("Each number with its source: --sources", style="dim")


def _headline(planned: CorpusPlan, recipe: CorpusRecipe) -> str:
    what = "snapshot" if planned.snapshots == 1 else "snapshots deduplicated together"
    cluster = recipe.cluster
    return (
        f"{planned.snapshots} {what}: {_count(planned.pages)} pages, {_count(planned.text_bytes)}B of text become "
        f"{_count(planned.tokens)} tokens in [bold]{duration(planned.hours)}[/] on {cluster.machines:,} machines of "
        f"{cluster.cores} cores; rates measured on {escape(planned.measured_on)}."
    )


def _stages(planned: CorpusPlan) -> Table:
    table = Table(box=SIMPLE_HEAD, header_style="bold")
    columns = ("units", "core hours", "GB a worker", "TB read", "TB written", "time", "bound")
    table.add_column("stage")
    for name in columns:
        table.add_column(name, justify="right")
    table.add_column("binds")
    for stage in planned.stages:
        table.add_row(
            stage.name,
            f"{stage.units:,}",
            f"{stage.core_hours:,.1f}",
            f"{stage.memory_bytes / 1e9:,.1f}",
            f"{stage.read_bytes / 1e12:,.2f}",
            f"{stage.written_bytes / 1e12:,.2f}",
            duration(stage.hours),
            duration(stage.limit_hours),
            stage.limit,
        )
    return table


def _totals(planned: CorpusPlan, recipe: CorpusRecipe) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    lost = f"; {planned.lost_core_hours:,.0f} of them done twice after {planned.failures:,} failures of machines"
    rows = {
        "core hours": f"{planned.core_hours:,.0f} busy, {planned.rented_core_hours:,.0f} rented"
        + (lost if planned.failures else ""),
        "workers": f"{planned.workers} on a machine of {recipe.cluster.cores} cores",
        "network": f"{planned.read_bytes / 1e12:,.1f} TB read, {planned.written_bytes / 1e12:,.1f} TB written",
        "disk": f"{planned.written_bytes / 1e12:,.1f} TB, all stages kept",
        "energy": f"{planned.kilowatt_hours:,.0f} kWh, {planned.carbon_grams / 1e6:,.2f} t CO2e",
    }
    if planned.money:
        parts = ", ".join(f"{name} {value:,.0f}" for name, value in planned.money.items())
        rows["money"] = f"{planned.total_money:,.0f} {planned.currency} ({parts})"
    if planned.stopped:
        rows["stops"] = f"a unit had no tries left {planned.stopped:,} times; the run is then started again by hand"
    for name, value in rows.items():
        table.add_row(f"[dim]{name}[/]", escape(value))
    return table


def _training(planned: CorpusPlan) -> str:
    best = planned.training
    money = "" if planned.training_money is None else f", {planned.training_money:,.0f} {planned.currency}"
    loss = "" if best.loss is None else f", loss {best.loss:.3f}"
    return (
        f"Training on all of it once, compute-optimal by {escape(best.basis)}: {_count(best.parameters)} parameters, "
        f"{best.flops:.2g} FLOPs, {_count(best.device_hours)} hours of {escape(best.device)}, "
        f"{duration(best.hours)} on {best.devices:,}{money}{loss}."
    )


def _sources(recipe: CorpusRecipe) -> Table:
    table = Table(title="What this rests on", title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    for name in ("setting", "value", "source, or what it is"):
        table.add_column(name, overflow="fold")
    for section, config in (("crawl", recipe.crawl), ("cluster", recipe.cluster)):
        assert isinstance(config, CrawlConfig | ClusterConfig)
        for name, field in type(config).model_fields.items():
            given = " (as the recipe says)" if name in config.model_fields_set else ""
            value = getattr(config, name)
            shown = f"{value:,g}" if isinstance(value, int | float) else str(value)
            table.add_row(f"{section}.{name}", shown, escape((field.description or "") + given))
    return table


def duration(hours: float) -> str:
    """Hours in the unit that people would choose."""
    for size, unit in ((24.0 * 365, "years"), (48.0, "days"), (1.0, "h"), (1 / 60, "min")):
        if hours >= size:
            each = 24.0 if unit == "days" else size
            return f"{hours / each:,.1f} {unit}"
    return f"{3600 * hours:,.1f} s"


def _count(number: float) -> str:
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:,.3g} {unit}"
    return f"{number:,.3g} "
