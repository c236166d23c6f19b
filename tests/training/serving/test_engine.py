from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.training.serving.served import Collected, Gate, small_service, write
from tests.training.small_models import one_thread
from training.config.generation import GenerationConfig
from training.generation import Generator
from training.generation.sequences import Sequences
from training.serving.engine import Engine
from training.serving.errors import ApiError
from training.serving.limits import Limits
from training.serving.service import Service
from training.serving.writing import Finished, Job

__all__ = ["one_thread"]


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return small_service(tmp_path)


def job(generator: Generator, prompt: str, **settings: object) -> Job:
    fields = {"max_new_tokens": 20, "temperature": 1.0, **settings}
    return Job(tuple(generator.encode(prompt)), GenerationConfig(**fields))  # type: ignore[arg-type]


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_choices_side_by_side_are_those_alone(service: Service) -> None:
    generator = service.generator
    jobs = [job(generator, prompt, seed=seed) for prompt in ("The man", "他", "") for seed in (1, 2, 3)]
    with Engine(generator, Limits(slots=4)) as engine:
        written = write(engine, *jobs)
    for asked, got in zip(jobs, written, strict=True):
        ids = list(generator.token_ids(asked.prompt, asked.settings))
        assert got.text == "".join(generator.decode(ids))
        assert isinstance(got.end, Finished)
        assert (got.end.tokens, got.end.reason) == (len(ids), "length" if len(ids) == 20 else "stop")


def test_a_pass_reads_all_texts_at_once(service: Service) -> None:
    model = service.generator.model
    shapes = []
    hidden = model.hidden

    def counted(ids_BT: torch.Tensor, *arguments: object, **more: object) -> torch.Tensor:
        shapes.append(tuple(ids_BT.shape))
        return hidden(ids_BT, *arguments, **more)

    model.hidden = counted
    jobs = [job(service.generator, prompt, seed=3, max_new_tokens=9) for prompt in ("The man", "他昨天", "a")]
    with Engine(service.generator, Limits(slots=3)) as engine:
        alone = [write(engine, one)[0].text for one in jobs]
        before = len(shapes)
        together = [one.text for one in write(engine, *jobs)]
    assert together == alone
    assert len(shapes) - before < before / 2
    assert (3, 1) in shapes[before:]


def test_a_pass_that_fails_ends_the_texts_in_it_and_no_later_one(service: Service) -> None:
    model, hidden = service.generator.model, service.generator.model.hidden

    def failing(ids_BT: torch.Tensor, *arguments: object, **more: object) -> torch.Tensor:
        if ids_BT.shape == (2, 1):
            raise RuntimeError("out of memory")
        return hidden(ids_BT, *arguments, **more)

    def broken(*arguments: object) -> None:
        raise RuntimeError("what is left behind is of no use")

    one = job(service.generator, "The", max_new_tokens=9)
    with Engine(service.generator) as engine, pytest.MonkeyPatch.context() as patched:
        (expected,) = write(engine, one)
        model.hidden = failing
        patched.setattr(Sequences, "select", broken)
        failed = write(engine, one, one)
        patched.undo()
        (fine,) = write(engine, one)
    assert [str(listener.end) for listener in failed] == ["the model failed: out of memory"] * 2
    assert fine.text == expected.text


def test_slots_are_shared_and_the_queue_has_an_end(service: Service) -> None:
    one = job(service.generator, "The", max_new_tokens=5)
    with Engine(service.generator, Limits(slots=2, queue=3)) as engine:
        gate = Gate(engine.rows)
        gate.open.clear()
        collected = [Collected() for _ in range(5)]
        engine.submit([(one, listener) for listener in collected])
        with pytest.raises(ApiError) as refused:
            engine.submit([(one, Collected())])
        assert (refused.value.status, refused.value.code) == (429, "queue_full")
        eventually(lambda: engine.load == (2, 3))
        gate.open.set()
        assert all(isinstance(listener.wait().end, Finished) for listener in collected)
        assert len({listener.text for listener in collected}) == 1
        eventually(lambda: engine.load == (0, 0))
    assert gate.running == 0


def test_one_that_nobody_wants_gives_up_its_slot_or_its_place(service: Service) -> None:
    one = job(service.generator, "The", max_new_tokens=40)
    with Engine(service.generator, Limits(slots=1, queue=2)) as engine:
        gate = Gate(engine.rows)
        gate.open.clear()
        collected = [Collected() for _ in range(3)]
        tickets = engine.submit([(one, listener) for listener in collected])
        eventually(lambda: engine.load == (1, 2))
        tickets[1].cancel()
        assert engine.load == (1, 1)
        tickets[0].cancel()
        gate.open.set()
        assert isinstance(collected[2].wait().end, Finished)
        assert collected[0].end is collected[1].end is None
    assert gate.running == 0


def test_time_ends_waiting_and_writing(service: Service) -> None:
    one = job(service.generator, "The", max_new_tokens=40)
    with Engine(service.generator, Limits(slots=1, queue_seconds=0.05, request_seconds=0.1)) as engine:
        gate = Gate(engine.rows)
        gate.open.clear()
        collected = [Collected() for _ in range(2)]
        engine.submit([(one, listener) for listener in collected])
        time.sleep(0.3)
        gate.open.set()
        written, waited = (listener.wait().end for listener in collected)
    assert isinstance(written, Finished)
    assert (written.reason, written.stopped_by) == ("length", "time limit")
    assert 0 < written.tokens < 40
    assert isinstance(waited, ApiError)
    assert (waited.status, waited.code) == (503, "queue_timeout")


def test_a_model_that_fails_ends_its_choice_alone(service: Service) -> None:
    one = job(service.generator, "The", max_new_tokens=5)
    with Engine(service.generator) as engine:
        gate = Gate(engine.rows)
        gate.broken = RuntimeError("out of memory")
        (failed,) = write(engine, one)
        gate.broken = None
        (fine,) = write(engine, one)
    assert isinstance(failed.end, ApiError)
    assert (failed.end.status, failed.end.message) == (500, "the model failed: out of memory")
    assert isinstance(fine.end, Finished)


def test_an_engine_that_closes_tells_those_who_wait(service: Service) -> None:
    engine = Engine(service.generator, Limits(slots=1)).start()
    gate = Gate(engine.rows)
    gate.open.clear()
    listener = Collected()
    engine.submit([(job(service.generator, "The"), listener), (job(service.generator, "The"), waiting := Collected())])
    engine._closed = True
    gate.open.set()
    engine.close()
    assert isinstance(waiting.wait().end, ApiError)
    with pytest.raises(ApiError, match="shutting down"):
        engine.submit([])


def test_a_stop_string_ends_the_text_wherever_tokens_cut_it(service: Service) -> None:
    generator = service.generator
    whole_job = job(generator, "The man", max_new_tokens=50, temperature=0.9, seed=5)
    with Engine(generator) as engine:
        (whole,) = write(engine, whole_job)
        assert len(whole.text) > 20
        for start in range(0, 12, 3):
            stop = whole.text[start : start + 4]
            settings = dataclasses.replace(whole_job.settings, stop=("never in it", stop, stop + "x"))
            (stopped,) = write(engine, dataclasses.replace(whole_job, settings=settings, top_logprobs=0))
            assert stopped.text == whole.text[: whole.text.index(stop)]
            assert isinstance(stopped.end, Finished)
            assert (stopped.end.reason, stopped.end.stopped_by) == ("stop", stop)
            assert "".join(one.text for one in stopped.end.scored or []).startswith(stopped.text)
            assert all(one.offset < len(stopped.text) for one in stopped.end.scored or [])


def test_log_probabilities_are_the_models(service: Service) -> None:
    generator = service.generator
    asked = dataclasses.replace(job(generator, "The man 中国", max_new_tokens=12), top_logprobs=3, echo=True)
    with Engine(generator) as engine:
        (got,) = write(engine, asked)
    assert isinstance(got.end, Finished)
    scored = got.end.scored
    assert scored is not None
    ids = [one.token for one in scored]
    assert ids[: len(asked.prompt)] == list(asked.prompt)
    with torch.no_grad():
        expected_TV = generator.model(torch.tensor([[0, *ids[:-1]]]))[0].log_softmax(-1)
    torch.testing.assert_close(
        torch.tensor([one.logprob for one in scored]), expected_TV.gather(1, torch.tensor(ids)[:, None])[:, 0]
    )
    for one, row_V in zip(scored, expected_TV, strict=True):
        best = row_V.argsort(descending=True)[:3].tolist()
        assert [text for text, _ in one.top] == [generator.tokenizer.decode([token]) for token in best]
    for part, text in ((scored[: len(asked.prompt)], "The man 中国"), (scored[len(asked.prompt) :], got.text)):
        for one in part:
            if "\ufffd" in text[: one.offset + 1]:
                break  # bytes that are no text have no place in it
            assert "\ufffd" in one.text or text[one.offset :].startswith(one.text)


def test_weights_that_are_not_finite_are_refused(service: Service) -> None:
    with torch.no_grad():
        service.generator.model.blocks[1].mlp.output.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"the model's blocks\.1\.mlp\.output\.weight holds NaN"):
        Service(service.generator, service.template, "broken")
