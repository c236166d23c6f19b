"""What the ingest stage is told: the sources, and the limits that hold for hostile input."""

from __future__ import annotations

import codecs
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.stage import StageConfig

Format = Literal["warc", "wikipedia", "jsonl", "parquet", "text", "html"]
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HtmlConfig(_Model):
    """How HTML becomes text (formats `warc` and `html`)."""

    main_content: bool = Field(default=True, description="Keep the main content only, without navigation and footers.")
    alt_texts: bool = Field(default=False, description="Keep the alternative texts of images.")
    links: bool = Field(default=False, description="Write link targets behind the link texts.")
    list_bullets: bool = Field(default=True, description="Write bullets and numbers in front of list items.")
    comments: bool = Field(default=False, description="Count comment sections of a page as its main content.")


class SourceConfig(_Model):
    """One named source of documents: where its files are and how they are read."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the source in every document.")
    format: Format = Field(description="warc, wikipedia (MediaWiki XML export), jsonl, parquet, text or html.")
    path: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="A path, a folder, a glob, an fsspec URL, quickstart://NAME, or a list of these. "
        "Compression (gzip, bzip2, zstd, xz) is seen from the content."
    )
    license: str | None = Field(
        default=None, description="Licence of every document, as an SPDX expression if it has one."
    )
    language: str | None = Field(
        default=None, description="Language of every document (ISO 639 code), where it is known."
    )

    text_field: str = Field(
        default="text", min_length=1, description="jsonl, parquet: field with the text. a.b is b inside a."
    )
    url_field: str | None = Field(
        default="url", description="jsonl, parquet: field with the address; it may be missing."
    )
    date_field: str | None = Field(
        default="date", description="jsonl, parquet: field with the date; it may be missing."
    )
    language_field: str | None = Field(default=None, description="jsonl, parquet: field that overrides `language`.")
    license_field: str | None = Field(default=None, description="jsonl, parquet: field that overrides `license`.")
    metadata_fields: tuple[str, ...] = Field((), description="jsonl, parquet: further fields to keep as metadata.")

    delimiter: Literal["file", "paragraph", "line"] = Field(
        default="file", description="text: what a document is. Paragraphs are separated by blank lines."
    )
    encoding: str | None = Field(
        default=None, description="text: the encoding. By default UTF-8, or UTF-16 where the file begins with its mark."
    )
    html: HtmlConfig = Field(HtmlConfig(), description="warc, html: how pages become text.")

    @field_validator("path", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (str(value),) if isinstance(value, str) or hasattr(value, "__fspath__") else value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            info = codecs.lookup(value)
            "".encode(info.name)  # refuses base64 and the like, which are codecs but not text encodings
        except LookupError as error:
            raise ValueError(f"unknown encoding {value!r}; use a name that Python knows, such as latin-1") from error
        return info.name

    @model_validator(mode="after")
    def _options_fit_the_format(self) -> Self:
        used = self.model_fields_set
        for option, formats in OPTIONS.items():
            if option in used and self.format not in formats:
                raise ValueError(f"source {self.name!r}: {option} has no meaning for format {self.format!r}")
        return self


_TABLES = ("jsonl", "parquet")
OPTIONS: dict[str, tuple[str, ...]] = {
    "text_field": _TABLES,
    "url_field": _TABLES,
    "date_field": _TABLES,
    "language_field": _TABLES,
    "license_field": _TABLES,
    "metadata_fields": _TABLES,
    "delimiter": ("text",),
    "encoding": ("text",),
    "html": ("warc", "html"),
}
"""The formats that an option belongs to; an option elsewhere is a mistake worth telling."""


class Limits(_Model):
    """Bounds for hostile or broken input; each bite is a ledger row."""

    max_document_bytes: int = Field(
        default=16 * MIB,
        ge=1,
        description="Longest text (and HTML page) in bytes; longer ones are rejected as too_large.",
    )
    max_record_bytes: int = Field(
        default=64 * MIB,
        ge=KIB,
        description="Longest record (JSON line, WARC record, XML page) that is held in memory.",
    )
    max_decompressed_bytes: int = Field(
        default=256 * GIB,
        ge=KIB,
        description="Most bytes out of one compressed stream (gzip member, zstd frame, bzip2 stream).",
    )
    max_decompression_ratio: float = Field(
        default=300.0,
        gt=1,
        description="Most bytes out per byte in, looked at after 16 MiB of output. DEFLATE reaches 1,032 at most "
        "(zlib's technical notes); text seldom passes 20.",
    )
    max_html_depth: int = Field(
        default=512,
        ge=16,
        description="Deepest nesting of HTML elements; 512 is where Blink, Chrome's parser, stops nesting.",
    )


class IngestConfig(StageConfig):
    """The ingest stage: sources, the size of a work unit, and limits."""

    sources: Annotated[tuple[SourceConfig, ...], Field(min_length=1)] = Field(
        description="What to read, in this order."
    )
    unit_bytes: int = Field(
        default=32 * MIB,
        ge=1,
        description="Input bytes, as stored, of one work unit and so of one output shard: "
        "large files are split near it, small files are grouped up to it.",
    )
    limits: Limits = Field(Limits(), description="Bounds for hostile or broken input.")

    @field_validator("sources")
    @classmethod
    def _names_differ(cls, value: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
        names = [source.name for source in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sources are named {name!r}; a name must say which source a document is from")
        return value
