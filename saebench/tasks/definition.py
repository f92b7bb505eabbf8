"""The schema of a probing task's TOML file, checked strictly: a misspelt key is an error, not a default."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from saebench.definitions import definition_file, definition_names, own_definitions
from saebench.errors import SaebenchError
from saebench.parsing import names_in, parse_toml

SOURCES = ("hub", "local", "sae_probes")
"""In the order in which they are tried."""

MOST_ROWS = 20_000


LONGEST_NAME = 200
"""Bytes of a file's name; file systems allow 255, of which some are for suffixes."""


def _file_name(name: str) -> str:
    """A name that a file system can hold."""
    if not name.isprintable() or any(len(part.encode(errors="replace")) > LONGEST_NAME for part in name.split("/")):
        raise ValueError(f"is no name of a file: at most {LONGEST_NAME} bytes, without control characters")
    return name


FileName = Annotated[str, AfterValidator(_file_name)]


class Strict(BaseModel):
    """A part of a definition: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Rule(Strict):
    """How a row of a data set becomes labelled texts.

    ``labelled``: one text a row, with a label. ``choices``: a right and a wrong answer a row, as two texts.
    ``ordered_pair``: one text that names two things in an order given by their hash; label 1 where the better one is first.

    Attributes:
        text: template; ``{field}`` is replaced by a column (``{a.b}`` for a field of it), ``{option}`` for the answer in
            ``choices``, ``{first}`` and ``{second}`` for the two of ``ordered_pair``.
        group: template of the key by which rows stay in one part of a split; the row's own text where it is empty.
        parse: regular expression searched in the column ``parse_from``; its named groups become further columns.
        remove: regular expression; what it matches is removed from the text.
        label, positive, negative: of ``labelled``: the column, and its values that mean 1 and 0 (all others, where
            ``negative`` is empty).
        right, wrong: of ``choices``: the column with the right answer, and those with wrong ones (or one that is a list).
        options, answer, first: of ``choices``, instead: the columns with the answers (or one that is a list), and the column
            that says which is right, by letter or by number, counted from ``first``.
        better, worse: of ``ordered_pair``: the two columns.
    """

    kind: Literal["labelled", "choices", "ordered_pair"] = "labelled"
    text: str
    group: str = ""
    parse: str = ""
    parse_from: str = "prompt"
    remove: str = ""
    label: str = "label"
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    right: str = ""
    wrong: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    answer: str = ""
    first: int = 0
    better: str = ""
    worse: str = ""

    @model_validator(mode="after")
    def _complete(self) -> Rule:
        by_right, by_answer = bool(self.right and self.wrong), bool(self.options and self.answer)
        complete = {
            "labelled": bool(self.positive),
            "choices": by_right != by_answer,
            "ordered_pair": bool(self.better and self.worse),
        }
        if not complete[self.kind]:
            raise ValueError(f"a rule of kind {self.kind} lacks required keys")
        for expression in (self.parse, self.remove):
            re.compile(expression)
        return self


class HubPart(Strict):
    """Rows of a data set on the Hugging Face hub.

    Attributes:
        dataset: owner and name; ``config``, ``folder`` and ``split`` as ``datasets.load_dataset`` takes them.
        revision: commit, or a branch where the commit is unknown; the commit that was read is recorded in the result.
        most_rows: maximum number of rows to read.
        columns: new columns computed from existing ones, as ``{new: old}``; ``constants``, of a fixed value.
    """

    dataset: str
    config: str = ""
    folder: str = ""
    split: str = "train"
    revision: str = "main"
    most_rows: int = Field(default=MOST_ROWS, gt=0)
    columns: dict[str, str] = Field(default_factory=dict)
    constants: dict[str, str] = Field(default_factory=dict)


class PackagePart(Strict):
    """Rows of a file of the installed package ``sae-probes``.

    Attributes:
        file: its name, without folder and suffix.
        only: columns and the values that rows must have there.
        constants: new columns of a fixed value.
    """

    file: FileName
    only: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    constants: dict[str, str] = Field(default_factory=dict)


class Sourced(Strict):
    """Data with its sources.

    Attributes:
        name: of its file; ``sha256``, of the file's content.
        version: increased where a change affects the examples.
        title: what the classes are.
        licence, citation: of the data.
        same: when two texts count as duplicates: ``words`` (ignoring case, punctuation and white space) or ``spaces``
            (ignoring white space, for arithmetic and code, where punctuation is the content).
        hub, local, sae_probes: sources of rows; ``local`` names files below the data folder.
    """

    name: str
    sha256: str
    version: int = 1
    title: str
    licence: str
    citation: str
    same: Literal["words", "spaces"] = "words"
    hub: tuple[HubPart, ...] = ()
    local: tuple[FileName, ...] = ()
    sae_probes: tuple[PackagePart, ...] = ()


Form = TypeVar("Form", bound=Sourced)


class Task(Sourced):
    """A binary probing task.

    Attributes:
        sets: the suites it belongs to.
        rows: how they are read; ``hub_rows``, ``local_rows`` and ``sae_probes_rows`` where a source's columns differ.
    """

    sets: tuple[str, ...]
    rows: Rule | None = None
    hub_rows: Rule | None = None
    local_rows: Rule | None = None
    sae_probes_rows: Rule | None = None

    @model_validator(mode="after")
    def _sources_have_rules(self) -> Task:
        given = [source for source in SOURCES if getattr(self, source)]
        if not given:
            raise ValueError("it names no source")
        for source in given:
            self.rule(source)
        return self

    def rule(self, source: str) -> Rule:
        """How rows of a source become examples."""
        rule: Rule | None = getattr(self, f"{source}_rows") or self.rows
        if rule is None:
            raise ValueError(f"it does not say how rows of {source} become examples")
        return rule


def read_task(name: str, data_dir: Path | None = None) -> Task:
    """The definition of a task: one of the package's, or of the user's in ``tasks`` below ``data_dir``.

    Raises:
        SaebenchError: there is no such task (the message lists those there are), or the file is invalid.
    """
    return read_sourced(Task, "tasks", name, own_tasks(data_dir).get(name))


def read_sourced(form: type[Form], kind: str, name: str, own: Path | None) -> Form:
    """A definition of data: the user's file ``own`` where it is given, else the package's of that kind and name.

    Raises:
        SaebenchError: there is none, or the file is invalid.
    """
    file = definition_file(kind, name) if own is None else own
    try:
        return cast(Form, _parsed(form, name, file.read_bytes()))
    except (ValidationError, TypeError, ValueError, OSError, re.error) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(map(str, first["loc"])) or "the file"
        raise SaebenchError(f"{kind}/{name}.toml is invalid: {where}: {first['msg']}.") from error


@lru_cache(maxsize=1024)
def _parsed(form: type[Sourced], name: str, content: bytes) -> Sourced:
    """A definition from its file's content; an evaluation asks for the same ones several times, a named suite for all."""
    return form(name=name, sha256=hashlib.sha256(content).hexdigest(), **parse_toml(content.decode()))


def own_tasks(data_dir: Path | None) -> dict[str, Path]:
    """Files of the user's own tasks: ``tasks/*.toml`` below a data folder, by name.

    Raises:
        SaebenchError: one has the name of a task of the package.
    """
    return own_definitions("tasks", data_dir)


def task_names() -> list[str]:
    """The names of all tasks of the package."""
    return definition_names("tasks")


def find_tasks(wanted: str, data_dir: Path | None = None) -> list[Task]:
    """Tasks by name or by suite, several separated by commas; each once, in order.

    Args:
        wanted: names and suites.
        data_dir: the user's folder of data, with own tasks in ``tasks`` below it.

    Raises:
        SaebenchError: there is no such task or suite.
    """
    own = own_tasks(data_dir)
    names, found = [*task_names(), *own], {}
    every = None
    for word in names_in(wanted):
        if word in names:
            found[word] = read_sourced(Task, "tasks", word, own.get(word))
            continue
        every = every or [read_sourced(Task, "tasks", name, own.get(name)) for name in names]
        members = [task for task in every if word in task.sets or word == "all"]
        if not members:
            suites = sorted({suite for task in every for suite in task.sets})
            raise SaebenchError(
                f"There is no probing task or set of tasks {word!r}: the sets are {', '.join([*suites, 'all'])}; "
                "`saebench tasks` lists the tasks."
            )
        found |= {task.name: task for task in members}
    if not found:
        raise SaebenchError("No probing task is given: give names or sets, separated by commas.")
    return list(found.values())
