"""`python -m benchmarks.privacy`: precision and recall on a labelled set, and speed beside regular expressions.

The labelled set is presidio-research's synthetic one (../shared/data); without it only the speed is measured, on
generated text. The peer of the speed is datatrove's PIIFormatter where it is installed, otherwise Python's `re` with
expressions for e-mail and IPv4 addresses: two kinds for the peer, seven for us.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import ipaddress
import json
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks.rows import Row, parser, show
from pipeline.privacy.config import PrivacyConfig
from pipeline.privacy.kinds import KINDS, Kind
from pipeline.privacy.masking import find, mask

DATA = Path(__file__).parents[1] / "../shared/data"
LABELS: dict[str, Kind] = {
    "EMAIL_ADDRESS": "email",
    "IP_ADDRESS": "ip_address",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "credit_card",
    "IBAN_CODE": "iban",
    "US_SSN": "national_id",
}
NOTE = (
    "The set is made by Faker: its numbers follow the form, not the numbering plans (an IPv6 address of a free "
    "block, cards of prefixes that no issuer has, exchanges that begin with 1). Its texts hold few numbers that are "
    "nothing of the kind, so that precision here says little: see the negative tables of the tests. Telephone "
    "numbers missed are groups such as 416 60 039 with no word for a telephone before them, which are not looked for."
)
PROSE = "The mill stands at the second bend of the river, 3 miles from town; in 1987 it burned down. "
CHINESE = "磨坊在河的第二个弯那里，离镇子有三公里。1987年它被烧毁了，后来人们又把它建了起来。"
DENSE = (
    "Jane <jane.doe@mail.de>, tel. (415) 627-3390, 91.12.4.177; 电话13812345678, card 4111 1111 1111 1111, "
    "IBAN GB82 WEST 1234 5698 7654 32, 身份证11010519491231002X. "
)


def accuracy(path: Path) -> tuple[Table, list[dict[str, Any]]]:
    """A table of precision and recall by kind, as matches that overlap a label and that are equal to one."""
    with gzip.open(path) as stream:
        samples = json.load(stream)
    texts = [sample["full_text"] for sample in samples]
    findings = find(pa.array(texts, pa.large_string()), PrivacyConfig())
    ours: dict[str, list[tuple[int, int, int]]] = {kind: [] for kind in KINDS}
    for number, kind, start, end in zip(
        findings.documents, findings.kinds, findings.starts, findings.ends, strict=True
    ):
        data = texts[number].encode()
        ours[KINDS[kind]].append((int(number), len(data[:start].decode()), len(data[:end].decode())))
    table = Table(title="Precision and recall: presidio-research synth v2", title_justify="left")
    for column in ("kind", "labels", "found", "recall", "precision", "recall exact", "precision exact"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    facts = []
    for kind in dict.fromkeys(LABELS.values()):
        labels = [
            (number, span["start_position"], span["end_position"])
            for number, sample in enumerate(samples)
            for span in sample["spans"]
            if LABELS.get(span["entity_type"]) == kind
        ]
        hit = sum(any(_overlap(label, match) for match in ours[kind]) for label in labels)
        right = sum(any(_overlap(label, match) for label in labels) for match in ours[kind])
        exact = len({*labels} & {*ours[kind]})
        shares = (hit / len(labels), right / len(ours[kind]), exact / len(labels), exact / len(ours[kind]))
        table.add_row(kind, str(len(labels)), str(len(ours[kind])), *(f"{share:.3f}" for share in shares))
        names = ("recall", "precision", "recall_exact", "precision_exact")
        facts.append({"kind": kind, "labels": len(labels), **dict(zip(names, shares, strict=True))})
    return table, facts


def _overlap(one: tuple[int, int, int], two: tuple[int, int, int]) -> bool:
    return one[0] == two[0] and one[1] < two[2] and two[1] < one[2]


def peer() -> tuple[Callable[[str], str], str, str]:
    """What masks one text, its name and its version."""
    try:
        from datatrove.pipeline.formatters.pii import PIIFormatter
    except ImportError:
        return _expressions(), "re: e-mail and IPv4", platform.python_version()
    return PIIFormatter().format, "datatrove PIIFormatter", importlib.metadata.version("datatrove")


def _expressions() -> Callable[[str], str]:
    email = re.compile(r"\b[\w.%+-]+@(?:[a-z0-9-]+\.)+[a-z]{2,}", re.IGNORECASE | re.ASCII)
    number = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
    ipv4 = re.compile(rf"(?<![\d.]){number}(?:\.{number}){{3}}(?![\d.])", re.ASCII)

    def replace(match: re.Match[str]) -> str:
        return "<IP_ADDRESS>" if ipaddress.ip_address(match[0]).is_global else match[0]

    return lambda text: ipv4.sub(replace, email.sub("<EMAIL>", text))


def texts(name: str, size: int) -> list[str]:
    """About `size` bytes of text in documents of some kilobytes."""
    generated = {"English": PROSE, "Chinese": CHINESE, "dense": DENSE}[name]
    real = {"English": DATA / "text/wikitext2_valid.txt.gz", "Chinese": DATA / "zh/classical_modern.jsonl.gz"}.get(name)
    if real is None or not real.is_file():
        document = generated * (4000 // len(generated.encode()) + 1)
        return [document] * (size // len(document.encode()))
    with gzip.open(real, "rt", encoding="utf-8") as stream:
        text = stream.read(size)
    if name == "Chinese":
        text = "\n".join(" ".join(map(str, _values(json.loads(line)))) for line in text.splitlines()[:-1])
    documents = [text[at : at + 4000] for at in range(0, len(text), 4000)]
    return documents * max(1, size // sum(len(document.encode()) for document in documents))


def _values(record: Any) -> list[Any]:
    return list(record.values()) if isinstance(record, dict) else [record]


def speed(size: int) -> list[Row]:
    """Megabytes a second of one core, masking included, by text."""
    config = PrivacyConfig()
    format_text, name, version = peer()
    mask(pa.array([DENSE], pa.large_string()), config)  # compiles
    rows = []
    for corpus in ("English", "Chinese", "dense"):
        documents = texts(corpus, size)
        array = pa.array(documents, pa.large_string())
        megabytes = sum(len(document.encode()) for document in documents) / 1e6
        ours = min(_seconds(mask, array, config) for _ in range(3))
        fewer = documents[: max(1, len(documents) // 10)]  # the peer is slow
        share = sum(len(document.encode()) for document in fewer) / 1e6
        theirs = _seconds(lambda documents: [format_text(document) for document in documents], fewer)
        rows.append(Row(corpus, "MB/s", megabytes / ours, share / theirs, name, version))
    return rows


def _seconds(work: Callable[..., Any], *arguments: Any) -> float:
    started = time.process_time()
    work(*arguments)
    return time.process_time() - started


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--megabytes", type=int, default=20, help="text of each kind for the speed")
    options = arguments.parse_args()
    console = Console()
    labelled = DATA / "filter/presidio_synth_v2.json.gz"
    rows = []
    if labelled.is_file():
        table, facts = accuracy(labelled)
        console.print(table)
        console.print(NOTE)
        for fact in facts:
            rows.append(Row(f"{fact['kind']}: recall", "share", fact["recall"]))
            rows.append(Row(f"{fact['kind']}: precision", "share", fact["precision"]))
    else:
        console.print(f"No precision and recall: the labelled set is not at {labelled.name} in ../shared/data/filter")
    measured = speed(options.megabytes << 20)
    show([*measured, *rows], "Search and mask, all kinds, one core", options.json)


if __name__ == "__main__":
    main()
