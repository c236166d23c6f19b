"""The plan of a run: its stages wired to their inputs, and where each lies in the workspace.

A stage's fingerprint follows from its configuration and its inputs' fingerprints, so the whole plan is known before any
work: what is done, what is missing, and whether anything is to be done at all.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from flows.recipe import Recipe, load_recipe
from flows.reference import REFERENCE, ReferenceConfig, find_reference
from flows.training_stages import Evaluate, Train
from pipeline.annotate import Annotate
from pipeline.classify import Classify
from pipeline.decontamination.overlaps import Overlaps
from pipeline.decontamination.stage import Decontaminate
from pipeline.dedup.index import KNOWN, check_known
from pipeline.dedup.stages import Candidates, Deduplicate, Duplicates, PreferenceOrder, Signatures
from pipeline.filter import Filter
from pipeline.ingest import Ingest
from pipeline.perplexity.stages import Perplexity, PerplexityModel
from pipeline.privacy.stage import Privacy
from pipeline.repeats.stages import Lines, Substrings
from pipeline.stage import CORPUS_STAGES, Stage, document_input
from pipeline.store import StageRef, Store, is_local, read_json, unwritable, write_json
from pipeline.tokens.marks import Marks, MarksConfig
from pipeline.tokens.stages import Tokenize, TrainTokenizer

STAGES = (*CORPUS_STAGES, "train", "evaluate")
"""All stages in their order; a plan has those that its recipe asks for."""


@dataclass(frozen=True)
class Plan:
    """A recipe in a workspace: every stage and its place in the store."""

    recipe: Recipe
    workspace: str
    store: Store
    stages: dict[str, Stage[Any]]
    refs: dict[str, StageRef]

    @property
    def identity(self) -> str:
        """The fingerprint of the last stage: it stands for the whole run."""
        return self.refs[STAGES[-1]].fingerprint

    @property
    def known(self) -> StageRef | None:
        """The decisions of the earlier run that the documents are compared with, if any."""
        return self.stages[Duplicates.name].inputs.get(KNOWN)

    @property
    def missing(self) -> list[str]:
        """The stages that are not committed yet, in order."""
        return [name for name, ref in self.refs.items() if not ref.is_committed]

    @property
    def record_path(self) -> str:
        """Where the record of this run lies."""
        return f"{self.workspace}/runs/{self.recipe.name}-{self.identity}.json"

    @property
    def report_path(self) -> str:
        """Where the report of this run lies."""
        return f"{self.workspace}/reports/{self.recipe.name}-{self.identity}.html"

    def is_recorded_at_its_prices(self) -> bool:
        """Whether the run's record has the prices of this recipe; else report, MLflow and catalog tell of others."""
        try:
            return _prices(read_json(self.record_path)["recipe"]) == _prices(self.recipe.dump())
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def write_record(self, **facts: Any) -> None:
        """Write the record of this run: recipe, fingerprints and facts; the newest record is the current run.

        Raises StoreError where the workspace cannot be written.
        """
        record = {
            "recipe": self.recipe.dump(),
            "given": self.recipe.given(),
            "identity": self.identity,
            "stages": {name: ref.fingerprint for name, ref in self.refs.items()},
            "updated": time.time(),
            **facts,
        }
        try:
            if is_local(self.workspace):
                Path(self.workspace, "runs").mkdir(parents=True, exist_ok=True)
            write_json(self.record_path, record)
        except OSError as error:
            raise unwritable(self.workspace, error) from error


def _prices(recipe: Mapping[str, Any]) -> tuple[Any, Any]:
    """All that decides costs, of a recipe with its defaults."""
    return recipe["costs"], recipe["train"]["training"]["price_per_device_hour"]


def read_records(workspace: str) -> list[dict[str, Any]]:
    """The records of the runs in a workspace, the newest last."""
    filesystem, folder = fsspec.core.url_to_fs(f"{workspace}/runs")
    records = [read_json(filesystem.unstrip_protocol(path)) for path in filesystem.glob(f"{folder}/*.json")]
    return sorted(records, key=lambda record: float(record["updated"]))


def make_plan(recipe: str | Mapping[str, Any], workspace: str, overrides: Sequence[str] = ()) -> Plan:
    """Read a recipe and wire its stages.

    Raises RecipeError for a wrong recipe and ValueError for a source that is missing, naming it.
    """
    loaded = load_recipe(recipe, overrides)
    root = str(Path(workspace).resolve()) if is_local(workspace) else workspace.rstrip("/")
    store = Store.at(f"{root}/store")
    stages: dict[str, Stage[Any]] = {}
    refs: dict[str, StageRef] = {}

    def add(stage_class: type[Stage[Any]], config: Any, *inputs: str, **others: StageRef) -> None:
        stage = stage_class(config, {**{name: refs[name] for name in inputs}, **others})
        stages[stage.name] = stage
        refs[stage.name] = store.ref(stage.name, stage.fingerprint())

    add(Ingest, loaded.ingest)
    add(Signatures, loaded.deduplicate, "ingest")
    known = _known(loaded, stages["signatures"], root)
    add(PreferenceOrder, loaded.deduplicate, "ingest", "signatures", **known)
    add(Candidates, loaded.deduplicate, "ingest", "signatures", "order", **known)
    add(Duplicates, loaded.deduplicate, "ingest", "signatures", "order", "candidates", **known)
    cut = []
    for repeats, section in ((Lines, loaded.deduplicate.lines), (Substrings, loaded.deduplicate.substrings)):
        if section is not None:
            add(repeats, loaded.deduplicate, "ingest", "signatures", "order", "duplicates", **known)
            if getattr(section, "action", "cut") == "cut":
                cut.append(repeats.name)
    add(Deduplicate, loaded.deduplicate, "ingest", "duplicates", *cut)
    add(Annotate, loaded.annotate, "deduplicate")
    if loaded.classify is not None:
        add(Classify, loaded.classify, "deduplicate")
    if loaded.perplexity_model is not None:
        add(PerplexityModel, loaded.perplexity_model, "deduplicate", "annotate")
        add(Perplexity, loaded.perplexity, "deduplicate", "annotate", "perplexity_model")
    add(Filter, loaded.filter, *(name for name in Filter.input_names if name in refs))
    if loaded.privacy is not None:
        add(Privacy, loaded.privacy, "filter")
    if loaded.decontaminate is not None:
        counted = ("overlaps",) if loaded.decontaminate.maximum_documents is not None else ()
        documents = document_input(refs)
        for _ in counted:
            add(Overlaps, loaded.decontaminate, documents)
        add(Decontaminate, loaded.decontaminate, documents, *counted)
    documents = document_input(refs)
    held_out: dict[str, StageRef] = {}
    marked = ("marks",) if loaded.marks is not None or loaded.train.objective.marks else ()
    if loaded.reference is None:
        add(TrainTokenizer, loaded.tokenizer, documents)
    else:
        given = loaded.tokenizer if "tokenizer" in loaded.model_fields_set else None
        reference = find_reference(loaded.reference, store, read_records(root), given)
        # The very shards are named from here on: the newest run of a recipe may be another one in a minute.
        found = {
            "tokenizer": reference.tokenizer.config,
            "reference": ReferenceConfig(tokens=reference.ref.fingerprint),
        }
        loaded = loaded.model_copy(update=found)
        stages["tokenizer"] = reference.tokenizer
        refs["tokenizer"] = store.ref("tokenizer", reference.tokenizer.fingerprint())
        held_out[REFERENCE] = reference.ref
        if marked:
            held_out[f"{REFERENCE}_marks"] = reference.marks(loaded.marks or MarksConfig())
    add(Tokenize, loaded.tokenize, documents, "tokenizer")
    if marked:
        add(Marks, loaded.marks or MarksConfig(), documents, "tokenizer", "tokenize")
    add(Train, loaded.priced_train, "tokenizer", "tokenize", *marked, **held_out)
    add(Evaluate, loaded.evaluate, "tokenize", "train", *marked, **held_out)
    assert [*stages] == [name for name in STAGES if name in stages]
    return Plan(loaded, root, store, stages, refs)


def _known(recipe: Recipe, signatures: Stage[Any], workspace: str) -> dict[str, StageRef]:
    """The decisions of the run that new documents are compared with, as an input, where the recipe names one.

    Raises ValueError where that run does not exist, has not finished its deduplication, or cannot be compared with.
    """
    config = recipe.deduplicate
    if config.against is None:
        return {}
    given = config.against.workspace
    folder = workspace if given is None else str(Path(given).resolve()) if is_local(given) else given.rstrip("/")
    where = f"deduplicate.against: recipe {config.against.recipe!r} in {folder}"
    if config.against.recipe == recipe.name and folder == workspace:
        raise ValueError(f"{where} is this run itself; give the new documents a recipe of another name")
    records = [record for record in read_records(folder) if record["recipe"]["name"] == config.against.recipe]
    if not records:
        names = sorted({record["recipe"]["name"] for record in read_records(folder)})
        raise ValueError(f"{where} has never run; runs there are of: {', '.join(names) or 'none'}")
    known = Store.at(f"{folder}/store").ref(Duplicates.name, records[-1]["stages"][Duplicates.name])
    if not known.is_committed:
        raise ValueError(f"{where} has not finished its stage 'duplicates'; run it first")
    check_known(known, signatures.identity(), config.within)
    return {KNOWN: known}
