"""From a request to what the engine writes: checks against the model, texts to ids, grammars to constraints."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence
from pathlib import Path

import torch

from training.chat import ChatTemplate, answer_ends, load_template
from training.generation import Generator
from training.generation.constraints import GrammarConstraint, Grammars
from training.models.finite import first_not_finite
from training.serving.errors import ApiError, wrong
from training.serving.limits import Limits
from training.serving.requests import ChatRequest, CompletionRequest, Request
from training.serving.writing import Job


class Service:
    """One model under a name."""

    def __init__(self, generator: Generator, template: ChatTemplate, name: str, limits: Limits | None = None) -> None:
        check_weights(generator)
        self.generator = generator
        self.template = template
        self.name = name
        self.limits = limits or Limits()
        self.context_length: int = generator.model.config.context_length
        self.grammars = Grammars(generator.tokenizer, generator.model.vocabulary_size, generator.end_of_text)
        self._ends = answer_ends(template, generator.tokenizer)
        tokens = generator.tokenizer.get_added_tokens_decoder().values()
        self._special = sorted(token.content for token in tokens if token.special)

    @classmethod
    def load(
        cls,
        checkpoint_dir: str | Path,
        name: str | None = None,
        device: str | torch.device = "cpu",
        draft_dir: str | Path | None = None,
        limits: Limits | None = None,
    ) -> Service:
        """Load a checkpoint, with a smaller one that drafts for it where one is named.

        Raises ValueError for what cannot be loaded or continues no text, a draft of another vocabulary, weights that
        are not finite, and a damaged chat template.
        """
        draft = None if draft_dir is None else Generator.load(draft_dir, device)
        generator = Generator.load(checkpoint_dir, device, draft=draft)
        folder = Path(checkpoint_dir)
        return cls(generator, load_template(folder, generator.tokenizer), name or folder.resolve().name, limits)

    def completion_jobs(self, request: CompletionRequest) -> list[Job]:
        """What is to be written: `n` choices for each prompt, in order. Raises ApiError."""
        prompts = [
            tuple(self.generator.encode(prompt)) if isinstance(prompt, str) else prompt for prompt in request.prompts
        ]
        for prompt in prompts:
            unknown = [token for token in prompt if not 0 <= token < self.generator.model.vocabulary_size]
            if unknown:
                raise wrong(
                    "prompt",
                    f"token id {unknown[0]} lies outside the vocabulary of {self.generator.model.vocabulary_size}",
                )
        return self._jobs(request, prompts, "prompt", echo=request.echo)

    def chat_jobs(self, request: ChatRequest) -> list[Job]:
        """What is to be written: `n` answers. Raises ApiError."""
        for index, message in enumerate(request.messages):
            for token in self._special:
                if token in message["content"]:
                    # Else a question could end its own turn and speak as the system.
                    raise wrong(f"messages[{index}].content", f"holds the special token {token}")
        try:
            text = self.template.render(request.messages, answer=True)
        except ValueError as error:
            raise wrong("messages", str(error)) from None
        return self._jobs(request, [self.chat_ids(text)], "messages", chat=True)

    def prompt_text(self, job: Job) -> str:
        """What stands before an answer that echoes its prompt."""
        if not job.echo:
            return ""
        text: str = self.generator.tokenizer.decode(list(job.prompt), skip_special_tokens=False)
        return text

    def chat_ids(self, rendered: str) -> tuple[int, ...]:
        """The ids of a rendered dialogue, without the begin of the text that the Generator puts there itself."""
        ids = tuple(self.generator.encode(rendered))
        begins = bool(self.template.begin_of_text) and rendered.startswith(self.template.begin_of_text)
        return ids[1:] if begins and ids[:1] == (self.generator.begin_of_text,) else ids

    def _jobs(
        self, request: Request, prompts: Sequence[tuple[int, ...]], param: str, echo: bool = False, chat: bool = False
    ) -> list[Job]:
        self._check_model(request.model)
        if request.top_logprobs is not None and self.generator.has_encoder:
            raise wrong("logprobs", "are not told of a model with an encoder", "unsupported_parameter")
        if len(prompts) * request.choices > self.limits.choices:
            raise wrong("n", f"prompts times n is over {self.limits.choices} choices a request")
        jobs: list[Job] = []
        for prompt in prompts:
            settings = dataclasses.replace(request.settings, max_new_tokens=self._length(request, prompt, param))
            if chat:
                settings = dataclasses.replace(
                    settings, stop=(*settings.stop, *self._ends.strings), stop_tokens=self._ends.ids
                )
            for _ in range(request.choices):
                # Each choice has a seed of its own; those of a seeded request follow the first.
                seed = request.settings.seed + len(jobs) if request.seeded else secrets.randbits(48)
                jobs.append(
                    Job(
                        prompt,
                        dataclasses.replace(settings, seed=seed % (1 << 63)),
                        self._constraint(request),
                        request.top_logprobs,
                        echo,
                        trim=chat,
                    )
                )
        return jobs

    def _check_model(self, asked: str) -> None:
        if asked and asked != self.name:
            message = f"the model {asked!r} does not exist; this server has {self.name!r}"
            raise ApiError(404, message, "model_not_found", "model")

    def _length(self, request: Request, prompt: tuple[int, ...], param: str) -> int:
        """How many tokens may be written behind a prompt."""
        room = self.context_length - len(prompt)
        asked = request.settings.max_new_tokens
        if room < 1 and not (room == 0 and asked == 0 and not request.unlimited):
            raise wrong(
                param,
                f"{len(prompt)} tokens; this model's context length is {self.context_length} tokens",
                "context_length_exceeded",
            )
        if request.unlimited:
            return min(room, self.limits.max_new_tokens)
        if asked > self.limits.max_new_tokens:
            raise wrong("max_tokens", f"{asked}; this server writes at most {self.limits.max_new_tokens}")
        if asked > room:
            raise wrong(
                "max_tokens",
                f"{asked} tokens behind {len(prompt)} of the {param} are more than this model's context length of "
                f"{self.context_length} tokens",
                "context_length_exceeded",
            )
        return asked

    def _constraint(self, request: Request) -> GrammarConstraint | None:
        if request.grammar is None:
            return None
        try:
            return self.grammars.constraint(request.grammar)
        except ValueError as error:
            raise wrong("response_format", str(error)) from None


def check_weights(generator: Generator) -> None:
    """Raise ValueError naming the first weights that hold a value that is not finite."""
    name = first_not_finite(generator.model)
    if name is not None:
        raise ValueError(f"the model's {name} holds NaN or infinite values; it can write nothing")
