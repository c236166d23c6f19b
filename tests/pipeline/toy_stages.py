"""Small real stages for the tests of the store and of execution; a module of its own so that workers can import it."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pyarrow as pa

from pipeline.stage import Stage, StageConfig, Unit, UnitOutput


class NumbersConfig(StageConfig):
    units: int = 4
    rows: int = 10
    drop_multiples_of: int = 3


class Numbers(Stage[NumbersConfig]):
    """Makes numbers and drops the multiples of one; `behaviour` is not part of the identity."""

    name = "numbers"
    version = 1
    behaviour: dict[str, Any] = {}  # noqa: RUF012 - set on instances

    def units(self) -> list[Unit]:
        return [Unit(i, f"numbers {i}", {"start": i * self.config.rows}) for i in range(self.config.units)]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        start = unit.spec["start"]
        if unit.index == self.behaviour.get("fail"):
            raise RuntimeError("asked to fail")
        if unit.index == self.behaviour.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if unit.index == self.behaviour.get("sleep"):
            time.sleep(60)
        values = list(range(start, start + self.config.rows))
        kept = [value for value in values if value % self.config.drop_multiples_of]
        dropped = [value for value in values if value % self.config.drop_multiples_of == 0]
        output.write("documents", pa.table({"value": kept}))
        output.ledger(
            {"id": str(value), "source": "toy", "action": "dropped", "rule": "multiple", "value": value}
            for value in dropped
        )
        lost = self.behaviour.get("lose", 0)
        output.count(read=len(values) + lost, kept=len(kept), dropped=len(dropped))
        with output.file("blob", ".bin", start=start) as stream:
            stream.write(bytes(values))
            stream.attributes["length"] = len(values)


class Doubled(Stage[NumbersConfig]):
    """Reads what Numbers kept, and may forget a shard."""

    name = "doubled"
    version = 1
    conserves = "numbers"
    forget_last = False

    def units(self) -> list[Unit]:
        files = self.inputs["numbers"].committed().files("documents")
        if self.forget_last:
            files = files[:-1]
        return [Unit(i, f"shard {i}", {"unit": file.unit}) for i, file in enumerate(files)]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        table = self.inputs["numbers"].committed().files("documents")[unit.spec["unit"]].table()
        output.write("documents", pa.table({"value": [2 * value for value in table["value"].to_pylist()]}))
        output.count(read=table.num_rows, kept=table.num_rows)
