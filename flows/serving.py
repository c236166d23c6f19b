"""A model that writes: once, in a dialogue, or for clients over HTTP."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from training.config.generation import GenerationConfig
    from training.generation import Generator
    from training.generation.constraints import Grammar
    from training.serving import Conversation, Limits, Service


def generate_command(
    prompt: str,
    model: str | None,
    workspace: Path,
    settings: GenerationConfig,
    draft: str | None = None,
    grammar: Grammar | None = None,
    device: str = "auto",
    tell: Callable[[str], None] = lambda piece: None,
) -> dict[str, Any]:
    """Go on from a prompt; `tell` gets the pieces of the text as they come.

    Returns the model's folder, prompt and continuation; of beam search also all that it found, best first. Raises
    ValueError for what cannot be loaded, and for a grammar with beams.
    """
    from flows.jobs_models import checkpoint_of
    from training.generation.stops import until_stop

    folder = checkpoint_of(model, str(workspace))
    generator = _load(folder, draft, workspace, device)
    facts: dict[str, Any] = {"model": str(folder), "prompt": prompt}
    if settings.beams > 1:
        if grammar is not None or draft is not None:
            raise ValueError(f"{'a grammar' if grammar else 'a draft'} is not for beam search; take it with --beams 1")
        (found,) = generator.batch([generator.encode(prompt)], settings)
        texts = ["".join(until_stop(generator.decode(one.ids), settings.stop)) for one in found]
        tell(texts[0])
        beams = [{"text": text, "score": one.score} for text, one in zip(texts, found, strict=True)]
        return {**facts, "continuation": texts[0], "beams": beams}
    pieces = []
    for piece in generator.stream(prompt, settings, _constraint(generator, grammar)):
        pieces.append(piece)
        tell(piece)
    return {**facts, "continuation": "".join(pieces)}


def open_conversation(
    model: str | None,
    workspace: Path,
    settings: GenerationConfig,
    system: str | None = None,
    draft: str | None = None,
    grammar: Grammar | None = None,
    device: str = "auto",
) -> Conversation:
    """Load a model to talk with. Raises ValueError for what cannot be loaded, and for a wrong grammar."""
    from training.serving import Conversation, Limits

    # Nobody else uses this one: an answer may be as long as it was asked for.
    limits = Limits(max_new_tokens=max(1, settings.max_new_tokens))
    service = load_service(model, workspace, None, draft, device, limits)
    if grammar is not None:
        service.grammars.constraint(grammar)
    return Conversation(service, settings, system, grammar)


def chat_command(
    conversation: Conversation,
    lines: Iterator[str],
    out: TextIO,
    note: Callable[[str], None],
    as_json: bool = False,
) -> None:
    """Answer each line until they end or one says /quit; /clear begins anew. Ctrl-C breaks off an answer.

    `note` is told what is no part of an answer. With `as_json` each turn is a line of JSON.
    """
    for line in lines:
        text = line.strip()
        if not text:
            continue
        if text in ("/quit", "/exit"):
            return
        if text == "/clear":
            conversation.clear()
            note("the dialogue begins anew")
            continue
        if text.startswith("/"):
            note(f"{text.split()[0]}: unknown; there are /clear and /quit")
            continue
        try:
            answer = _answer(conversation, text, None if as_json else out)
        except ValueError as error:
            note(str(error))
            continue
        if conversation.forgotten:
            note(f"the context is full: {conversation.forgotten} older messages were not seen")
        if as_json:
            ending = None if conversation.last is None else conversation.last.reason
            facts = {"question": text, "answer": answer, "finish_reason": ending, "forgotten": conversation.forgotten}
            print(json.dumps(facts, ensure_ascii=False), file=out, flush=True)


def _answer(conversation: Conversation, text: str, out: TextIO | None) -> str:
    """The answer, written to `out` as it comes."""
    pieces = []
    stream = conversation.say(text)
    try:
        for piece in stream:
            pieces.append(piece)
            if out is not None:
                print(printable(piece), end="", file=out, flush=True)
    except KeyboardInterrupt:
        stream.close()  # type: ignore[attr-defined]
        pieces.append(" …")
    if out is not None:
        print(" …" if pieces[-1:] == [" …"] else "", file=out, flush=True)
    return "".join(pieces)


def load_service(
    model: str | None,
    workspace: Path,
    name: str | None = None,
    draft: str | None = None,
    device: str = "auto",
    limits: Limits | None = None,
) -> Service:
    """Load a model for a server or a dialogue; its name is by default what it was asked for by, else its folder's.

    Raises ValueError for what cannot be loaded.
    """
    from flows.jobs_models import checkpoint_of
    from training.serving import Service

    folder = checkpoint_of(model, str(workspace))
    draft_folder = None if draft is None else checkpoint_of(draft, str(workspace))
    if name is None:
        name = _called(model, folder)
    return Service.load(folder, name, _device(device), draft_folder, limits)


def _called(model: str | None, folder: Path) -> str:
    """What clients call a model that has no other name."""
    if model and model.startswith("models:/"):
        return model.removeprefix("models:/")
    # A folder of transformers has its own name, and not that of the step that it was imported as.
    return (folder if model is None else Path(model)).resolve().name


def read_grammar(regex: str | None, json_schema: Path | None) -> Grammar | None:
    """The grammar that options name; raises ValueError for both, and for a file that cannot be read."""
    from training.generation.constraints import Grammar

    if regex is not None and json_schema is not None:
        raise ValueError("--regex and --json-schema: name one of them")
    if regex is not None:
        return Grammar.regex(regex)
    if json_schema is None:
        return None
    try:
        return Grammar.json_schema(json_schema.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--json-schema {json_schema}: cannot be read: {error}") from None


def printable(text: str) -> str:
    """A text without the characters that would steer a terminal."""
    return "".join(one for one in text if one in "\n\t" or not (ord(one) < 32 or 127 <= ord(one) < 160))


def _load(folder: Path, draft: str | None, workspace: Path, device: str) -> Generator:
    from flows.jobs_models import checkpoint_of
    from training.generation import Generator

    drafting = None
    if draft is not None:
        drafting = Generator.load(checkpoint_of(draft, str(workspace)), _device(device))
    return Generator.load(folder, _device(device), drafting)


def _constraint(generator: Generator, grammar: Grammar | None) -> Any:
    from training.generation.constraints import Grammars

    if grammar is None:
        return None
    return Grammars(generator.tokenizer, generator.model.vocabulary_size, generator.end_of_text).constraint(grammar)


def _device(name: str) -> str:
    """What `auto` means here; raises ValueError for a device that is not there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return name


def read_settings(
    tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    stop: list[str] | None,
    seed: int,
    overrides: list[str] | None = None,
    beams: int = 1,
) -> GenerationConfig:
    """The settings that options name, and `key=value` for the others; raises ValueError naming a wrong one."""
    import yaml

    from training.config import from_dict
    from training.config.generation import GenerationConfig

    chosen: dict[str, Any] = {
        "max_new_tokens": tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "beams": beams,
        "stop": stop or [],
        "seed": seed,
    }
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f"--set {override!r}: expected setting=value, such as repetition_penalty=1.2")
        try:
            chosen[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {override!r}: {error}") from None
    return from_dict(GenerationConfig, chosen)


def questions(source: TextIO) -> Iterator[str]:
    """The lines of a terminal, asked for with a prompt, or of a file; Ctrl-C at a prompt ends them."""
    if not source.isatty():
        yield from source
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (lets input() recall earlier lines)
    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return


def serve_command(service: Service, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until the process is told to end. Raises ValueError for an address that cannot be listened on."""
    import os

    from training.serving.run import API_KEY, serve
    from training.serving.server import LOOPBACK

    def ready(url: str) -> None:
        say(f"{service.name} at {url} (Ctrl-C ends)")
        if host not in LOOPBACK and not os.environ.get(API_KEY):
            say(f"anyone who can reach {host} may use it: set {API_KEY} to ask for a key")

    with contextlib.suppress(KeyboardInterrupt):
        serve(service, host, port, ready)
