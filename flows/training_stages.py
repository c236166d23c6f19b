"""The two stages that run in processes of their own: training and evaluation, described by files alone."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from flows.process import ProcessStopped, run_process, training_command
from flows.progress import publish
from flows.reference import REFERENCE
from pipeline.execution import available_cores
from pipeline.stage import Stage, StageConfig, StageError, Unit, UnitOutput, UnitRecord
from pipeline.store import Committed, File, StageRef, is_local
from pipeline.tokens.marks import marks_of
from pipeline.tokens.shards import TRAIN, VALIDATION
from training.config import (
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ScheduleConfig,
    Shard,
    SpecialTokens,
    TrainingConfig,
    TrainingRun,
    check_fit,
    expand_objective,
    expand_preset,
)


class TrainConfig(StageConfig):
    """What is trained, on which objective, for how long."""

    model: Annotated[ModelConfig, BeforeValidator(expand_preset)] = Field(
        default_factory=ModelConfig, description="A preset's name, or the shape of the Transformer trunk."
    )
    objective: Annotated[ObjectiveConfig, BeforeValidator(expand_objective)] = Field(
        default_factory=ObjectiveConfig, description="A preset's name, or what is learned."
    )
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    initial_checkpoint: str | None = Field(
        None,
        description="Folder of a checkpoint whose weights the training starts from, where names and shapes agree; "
        "null: drawn anew.",
    )
    processes: int = Field(1, ge=1, description="Processes that torchrun starts on this machine, one per GPU.")
    restarts: int = Field(
        3,
        ge=0,
        description="How often a training that was stopped (SIGTERM), stalled or lost one of several processes is "
        "started again, from its newest checkpoint.",
    )

    @model_validator(mode="after")
    def _check_combination(self) -> TrainConfig:
        check_fit(self.model, self.objective)
        length = self.training.sequence_length
        if length is not None and length > self.model.context_length:
            raise ValueError(
                f"training.sequence_length ({length}) must not exceed "
                f"model.context_length ({self.model.context_length})"
            )
        if self.training.batch_size % self.processes:
            raise ValueError(
                f"training.batch_size ({self.training.batch_size}) must be a multiple of processes ({self.processes})"
            )
        return self


class Train(Stage[TrainConfig]):
    """Trains a model on the token shards in a process of its own, resumed from its last checkpoint."""

    name = "train"
    version = 3
    in_process = True

    def identity(self) -> Any:
        """Leave out what does not reach the weights: devices, threads, micro-batch and intervals of bookkeeping."""
        training = dataclasses.asdict(self.config.training)
        for execution in TrainingConfig.EXECUTION:
            del training[execution]
        parts = {name: dataclasses.asdict(getattr(self.config, name)) for name in _MODEL_PARTS}
        parts["model"] = self.config.model.identity()
        for one in (parts["objective"], *parts["objective"]["also"]):
            del one["contrastive"]["examples"]
        return {**parts, "training": training, "initial": self._initial(), "examples": self._examples()}

    def units(self) -> list[Unit]:
        """One unit: the run itself resumes from its checkpoints."""
        steps = self.config.training.steps
        return [Unit(0, f"{steps} steps", {}, weight=steps)]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Start the training process, follow it to its end and take over what it wrote."""
        if not is_local(output.ref.path):
            raise StageError("training writes its checkpoints to a local disk; use a local --workspace for this stage")
        work = Path(output.ref.path, "work")
        work.mkdir(parents=True, exist_ok=True)
        run = self.run_config(self.inputs["tokenize"].committed(), work)
        config_path = work / "config.json"
        config_path.write_text(json.dumps(dataclasses.asdict(run), indent=1), encoding="utf-8")
        publish({"stage": self.name, "work": str(work), "total": run.training.steps})
        self.train(config_path)
        result = json.loads((work / "result.json").read_text(encoding="utf-8"))
        for path in sorted((work / "checkpoints").glob("step-*/*")):
            output.adopt("checkpoints", path, f"{path.parent.name}/{path.name}", step=_step_of(path.parent))
        output.adopt("metrics", work / "metrics.jsonl", "metrics.jsonl")
        if (work / "samples.jsonl").exists():
            output.adopt("samples", work / "samples.jsonl", "samples.jsonl")
        # Folders differ between workspaces; what the manifest keeps are the steps.
        steps = {"steps": result["step"], "best_step": _step_of(Path(result["best_checkpoint"]))}
        facts = {name: value for name, value in result.items() if name not in ("step", "checkpoint", "best_checkpoint")}
        output.adopt("result", work / "result.json", "result.json", **steps, **facts)

    def train(self, config_path: Path) -> None:
        """Train what a config file says, to the end."""
        arguments = ["train", str(config_path), "--watch-stdin"]
        self._run(training_command("training", arguments, self.config.processes, self.config.restarts))

    def _run(self, command: list[str]) -> None:
        """Follow the training process to its end, and start it again where it stopped to go on later."""
        for attempt in itertools.count():
            try:
                return run_process(command, self._tell, _log_line(self.name))
            except ProcessStopped as stopped:
                if attempt == self.config.restarts:
                    raise
                publish({"stage": self.name, "line": f"{stopped}\nstarted again, from its newest checkpoint"})

    def _tell(self, event: dict[str, Any]) -> None:
        publish({**event, "stage": self.name})
        if "message" in event:  # a warning, an error, a rollback, a stall
            publish({"stage": self.name, "line": f"{event['event']}: {event['message']}"})

    def run_config(self, tokens: Committed, output_dir: Path) -> TrainingRun:
        """Return the configuration of the training process over committed token shards."""
        tokenizer = tokens.manifest["summary"]["tokenizer"]
        return TrainingRun(
            data=data_of(tokens, self.inputs),
            vocabulary_size=tokenizer["vocabulary_size"],
            end_of_text=tokenizer["end_of_text_id"],
            special_tokens=special_tokens(tokenizer["special_tokens"]),
            output_dir=str(output_dir),
            dataset_fingerprint=tokens.fingerprint,
            tokenizer_path=self.inputs["tokenizer"].committed().files("tokenizer")[0].path,
            tokenizer_sha256=tokenizer["sha256"],
            initial_checkpoint=self.config.initial_checkpoint or "",
            initial_sha256=self._initial(),
            examples_sha256=self._examples(),
            training=dataclasses.replace(
                self.config.training, threads=self.config.training.threads or available_cores()
            ),
            **{name: getattr(self.config, name) for name in _MODEL_PARTS},
        )

    def try_out(self) -> None:
        """Raise ValueError where model and objective do not go together, before the corpus is worked on.

        torch is imported for it, so only where the fields alone do not tell.
        """
        config = self.config
        if config.model.architecture == "transformer" and config.objective.name == "causal":
            return
        from training.fitting import try_out

        try_out(config.model, config.objective, config.training.sequence_length or config.model.context_length)

    def _initial(self) -> str:
        """Digest of the weights that the training starts from; empty where they are drawn."""
        folder = self.config.initial_checkpoint
        return "" if folder is None else _digest("train.initial_checkpoint", Path(folder, "model.safetensors"))

    def _examples(self) -> str:
        """Digests of the files of examples that objectives learn from; empty where none does."""
        files = [one.contrastive.examples for one in self.config.objective.all]
        return " ".join(_digest("contrastive.examples", Path(file)) for file in files if file is not None)

    def summary(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """Return what the training process reported at its end."""
        (result,) = [entry for entry in records[0].files if entry["kind"] == "result"]
        return dict(result["attributes"])


_MODEL_PARTS = ("model", "objective", "optimizer", "schedule")


class EvaluateConfig(StageConfig):
    """Which checkpoint is judged, by what."""

    checkpoint: Literal["best", "final"] = Field("best", description="best: of the lowest validation loss.")
    ngram_order: int = Field(3, ge=1, le=5, description="Order of the interpolated n-gram model to compare with.")
    ngram_tokens: Literal["all", "trained"] = Field(
        "all",
        description="What the n-gram models count: all train tokens, or only those that the model was trained on.",
    )
    minimal_pairs: tuple[str, ...] = Field(
        ("templates:en", "templates:zh"),
        description="Own templates by language, or files of BLiMP's form (lines with sentence_good, sentence_bad).",
    )
    pairs_per_phenomenon: int = Field(100, ge=1, description="Pairs that each own template makes.")
    prompts: tuple[str, ...] = Field(
        ("The", "In the beginning, the", "中国", "这本书", "El", "Россия", "日本"),
        description="Beginnings of the sample generations.",
    )
    sample_tokens: int = Field(60, ge=1, description="Tokens generated for each prompt.")
    temperature: float = Field(0.8, ge=0.0, description="0 is greedy.")
    top_k: int = Field(50, ge=0, description="0 samples from the whole vocabulary.")
    seed: int = Field(1, ge=0, description="Of samples, and of the masks, orders and cuts of held-out text.")
    pseudo_sentences: int = Field(
        200,
        ge=0,
        description="Held-out sentences of the pseudo-perplexity of models that predict a token from both sides, each "
        "token masked in turn (Salazar et al. 2020); 0 leaves it out.",
    )
    blanks: int = Field(
        8, ge=0, description="Held-out sentences in which a model that continues no text fills a blank."
    )
    similarity: tuple[str, ...] = Field(
        (),
        description="Local files of sentence pairs that people scored: tables of STS-B's form, or JSON Lines of "
        "{sentence1, sentence2, score}.",
    )
    probes: tuple[str, ...] = Field(
        (),
        description="Local JSON Lines files of {text, label}: what a logistic regression reads from frozen vectors.",
    )
    choices: tuple[str, ...] = Field(
        (),
        description="Local JSON Lines files of {prompt, choices, answer}, answer a place in the list: which choice the "
        "model finds likeliest, behind the prompt or in the place of its {}.",
    )
    task_examples: int = Field(
        2000, ge=0, description="Most texts of a probe, and questions of a file of choices; 0 takes all."
    )


class Evaluate(Stage[EvaluateConfig]):
    """Judges a checkpoint on held-out text and tasks, beside models that know less."""

    name = "evaluate"
    version = 1
    in_process = True

    def units(self) -> list[Unit]:
        """One unit."""
        return [Unit(0, f"{self.config.checkpoint} checkpoint", {})]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Start the evaluation process and take over its results."""
        tokens = self.inputs["tokenize"].committed()
        train = self.inputs["train"].committed()
        config = {
            "checkpoint": str(checkpoint_folder(train, self.config.checkpoint)),
            "data": [dataclasses.asdict(shard) for shard in data_of(tokens, self.inputs)],
            "output": str(output.scratch / "results.json"),
            "threads": available_cores(),
            **self.config.model_dump(mode="json", exclude={"checkpoint"}),
        }
        config_path = output.scratch / "config.json"
        config_path.write_text(json.dumps(config, ensure_ascii=False, indent=1), encoding="utf-8")
        command = training_command("training.evaluation", [str(config_path), "--watch-stdin"])
        run_process(command, lambda event: publish({**event, "stage": self.name}), _log_line(self.name))
        output.adopt("results", output.scratch / "results.json", "results.json")

    def summary(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """Name the checkpoint that was judged."""
        return {"checkpoint": self.config.checkpoint}


def token_shard(file: File) -> Shard:
    """Return a token file of the tokenize stage as the trainer knows it."""
    names = {entry.name for entry in dataclasses.fields(Shard)} - {"path", "sha256"}
    known = {name: value for name, value in file.attributes.items() if name in names and value is not None}
    return Shard(path=file.path, sha256=file.sha256, **known)


def data_of(tokens: Committed, inputs: Mapping[str, StageRef]) -> list[Shard]:
    """Return the shards of a training: of a run with a reference those held out there in the place of its own."""
    shards = token_shards(tokens, inputs.get("marks"))
    reference = inputs.get(REFERENCE)
    if reference is None:
        return shards
    held_out = token_shards(reference.committed(), inputs.get(f"{REFERENCE}_marks"))
    train = [shard for shard in shards if shard.split == TRAIN]
    return [*train, *(shard for shard in held_out if shard.split == VALIDATION)]


def token_shards(tokens: Committed, marks: StageRef | None = None) -> list[Shard]:
    """Return the token files of the tokenize stage as the trainer knows them, with their marks where there are any."""
    marked = marks_of(marks.committed()) if marks is not None else {}
    shards = []
    for file in tokens.files("tokens"):
        shard = token_shard(file)
        mark = marked.get(file.path.removeprefix(tokens.path).lstrip("/"))
        if mark is not None:
            shard = dataclasses.replace(shard, marks=mark.path, marks_sha256=mark.sha256)
        shards.append(shard)
    return shards


def _digest(field: str, path: Path) -> str:
    """The sha256 of a file that a recipe names; raises ValueError naming the field where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{field}: {path} cannot be read: {error.strerror}") from None


def special_tokens(ids: Mapping[str, int]) -> SpecialTokens:
    """Return the ids of the tokenizer's special tokens by what they are for."""
    names = {"padding": "<|pad|>", "mask": "<|mask|>", "first": "<|cls|>", "separator": "<|sep|>"}
    return SpecialTokens(**{name: ids.get(token) for name, token in names.items()})


def checkpoint_folder(train: Committed, which: Literal["best", "final"] = "best") -> Path:
    """Return the folder of the best or the last checkpoint of a committed training."""
    summary = train.manifest["summary"]
    step = summary["best_step"] if which == "best" else summary["steps"]
    for file in train.files("checkpoints"):
        if file.attributes["step"] == step and file.path.endswith("model.safetensors"):
            return Path(file.path).parent
    raise StageError(f"the training at {train.path} holds no checkpoint of step {step}")


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _log_line(stage: str) -> Any:
    return lambda line: publish({"stage": stage, "line": line})
