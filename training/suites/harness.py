"""lm-evaluation-harness over a checkpoint: its tasks, prompts and metrics, with the answers of training.suites.

    from training.suites.harness import harness_model
    lm_eval.simple_evaluate(harness_model("checkpoints/step-00001000"), tasks=[...])

`register()` makes the name `headrace` known to lm_eval's own command line.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from training.config import TrainingConfig, from_dict
from training.config.generation import GenerationConfig
from training.continuing import sees_prefix
from training.devices import resolve
from training.distributed import World
from training.evaluation.judged import Judged
from training.evaluation.scoring import token_log_probabilities
from training.generation import Generator
from training.generation.stops import until_stop
from training.suites.cache import Cache
from training.suites.judge import model_digest
from training.suites.likelihood import Likelihood, Request

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM

_MAX_NEW_TOKENS = 256
"""What the harness takes where a task says nothing."""


def harness_model(
    checkpoint: str | Path,
    *,
    device: str = "auto",
    precision: str = "fp32",
    threads: int = 0,
    cache: str | Path | None = None,
) -> TemplateLM:
    """A checkpoint as an `LM` of lm-evaluation-harness.

    Texts begin with the begin-of-text id, as the model was trained. `cache`: a SQLite file of answers (cache.py); by
    default none outlives the process. Raises ValueError where lm-eval is not installed, where the checkpoint lacks
    something, and where its model gives texts no score.
    """
    model: TemplateLM = _model_class()(checkpoint, device, precision, threads, cache)
    return model


def register() -> None:
    """Make `--model headrace --model_args checkpoint=FOLDER` known to lm_eval; raises ValueError without it."""
    _model_class()
    from lm_eval.api.registry import register_model

    register_model("headrace")(_model_class())


def local_task(name: str, documents: Callable[[], Sequence[dict[str, Any]]], **config: Any) -> Any:
    """A task of lm-evaluation-harness over rows of a local file, without a network and without its data sets.

    `config` is that of its YAML files (doc_to_text, doc_to_choice, output_type, ...). Pass it to `simple_evaluate` in
    the list of tasks. Raises ValueError where lm-eval is not installed.
    """
    _model_class()
    import datasets
    from lm_eval.api.task import ConfigurableTask

    def load(**_: Any) -> Any:
        return datasets.DatasetDict({"test": datasets.Dataset.from_list(list(documents()))})

    given = {"task": name, "custom_dataset": load, "test_split": "test", "metadata": {"version": 1}, **config}
    # What the harness passes on to the function beside the metadata.
    return ConfigurableTask(config={"dataset_path": "", "dataset_kwargs": {}, **given})


@functools.cache
def _model_class() -> type[TemplateLM]:
    """The class, made where lm_eval is imported."""
    try:
        from lm_eval.api.model import TemplateLM
    except ImportError:
        raise ValueError("lm-evaluation-harness is needed: pip install lm-eval") from None

    class HeadraceLM(TemplateLM):
        """Answers the harness by trees of tokens, where the model reads from left to right."""

        def __init__(
            self,
            checkpoint: str | Path,
            device: str = "auto",
            precision: str = "fp32",
            threads: int = 0,
            cache: str | Path | None = None,
            **_: Any,
        ) -> None:
            super().__init__()
            settings = {"device": device, "precision": precision, "threads": threads, "compile": "off"}
            compute = resolve(from_dict(TrainingConfig, settings), World())
            self.judged = Judged(checkpoint, compute)
            if cache is None:
                self._folder = tempfile.TemporaryDirectory()
                cache = Path(self._folder.name) / "requests.sqlite"
            self.likelihood = Likelihood(
                self.judged, Cache(cache, model_digest(Path(checkpoint)), self.judged.compute.precision)
            )
            self._device = compute.device

        @property
        def eot_token_id(self) -> int:
            return self.judged.end_of_text

        @property
        def prefix_token_id(self) -> int:
            return self.judged.begin_of_text

        @property
        def max_length(self) -> int:
            return self.judged.context_length

        @property
        def tokenizer_name(self) -> str:
            return str(self.judged.checkpoint)

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
            return [int(token) for token in self.judged.encode([string])[0]]

        def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
            asked = [
                Request(() if context == [self.prefix_token_id] else tuple(context), tuple(continuation))
                for _, context, continuation in requests
            ]
            answers = self.likelihood.answers(asked, "lm-evaluation-harness")
            return [(answer.log_probability, answer.matched == answer.tokens) for answer in answers]

        def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
            logs = token_log_probabilities(
                self.judged.model,
                self.judged.encode([request.args[0] for request in requests]),
                self.judged.begin_of_text,
                document_mask=self.judged.description.get("document_mask", False),
                arithmetic=self.judged.compute.autocast,
            )
            return [float(log.sum(dtype="float64")) for log in logs]

        @torch.inference_mode()
        def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
            judged = self.judged
            prefix = sees_prefix(judged.objective_config)
            generator = Generator(judged.model, judged.tokenizer, judged.end_of_text, judged.begin_of_text, prefix)
            texts = []
            for request in requests:
                context, options = request.args
                stop = options.get("until") or []
                stop = (stop,) if isinstance(stop, str) else tuple(stop)
                count = int(options.get("max_gen_toks", _MAX_NEW_TOKENS))
                temperature = float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0
                settings = GenerationConfig(max_new_tokens=count, temperature=temperature, stop=stop)
                prompt = self.tok_encode(context)[-max(1, judged.context_length - 1 - count) :]
                [[best, *_]] = generator.batch([prompt], settings)
                texts.append("".join(until_stop(generator.decode(best.ids), stop)))
            return texts

    return HeadraceLM
