"""Clean text for the tests of single stages."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from megaxlm_data.crew import Crew
from megaxlm_data.progress import Progress
from megaxlm_data.stages.clean import clean
from megaxlm_data.stages.exact import exact_duplicates
from megaxlm_data.stages.lines import deduplicate_lines
from megaxlm_data.stages.near import near_duplicates
from megaxlm_data.stages.plan import find_inputs
from megaxlm_data.stages.select import blocks_of
from megaxlm_data.workers import WorkerPool
from megaxlm_data.writers.cleaned import open_cleaned

from megaxlm.config.data_build import DataBuildConfig

QUIET = Progress(False)


@dataclass
class Prepared:
    """Inputs that are clean, and the stages of deduplication on them."""

    config: DataBuildConfig
    work: Path

    def __post_init__(self):
        inputs = find_inputs(self.config, QUIET)
        self.cleaned = self.work / "clean"
        self.alone = Crew.alone()
        with WorkerPool(1) as pool:
            made = clean(inputs, self.config, self.cleaned, pool, self.alone, QUIET)
        self.plan, self.reports = made.plan, made.reports

    def lines(self, workers=1, folder="lines", crew=None):
        """Runs the stage; returns the plan, reports and folder that it gives."""
        with WorkerPool(workers) as pool:
            return deduplicate_lines(
                self.plan,
                self.config,
                self.reports,
                self.cleaned,
                self.work / folder,
                pool,
                crew or self.alone,
                QUIET,
            )

    def exact(self, folder="exact", crew=None):
        return exact_duplicates(
            self.plan,
            self.config,
            self.reports,
            self.cleaned,
            self.work / folder,
            crew or self.alone,
            QUIET,
        )

    def near(self, workers=1, folder="near", crew=None):
        """Runs exact and near deduplication; returns what stays, by group name."""
        with WorkerPool(workers) as pool:
            return near_duplicates(
                self.plan,
                self.config,
                self.exact(),
                self.reports,
                self.cleaned,
                self.work / folder,
                pool,
                crew or self.alone,
                QUIET,
            )

    def kept(self, result, name="en"):
        """Returns which rows of a group stay, as a list."""
        rows = sum(self.reports[unit.digest].kept for unit in self.group(name).units)
        return result[name].rows(0, rows).tolist()

    def group(self, name):
        return next(group for group in self.plan.groups if group.name == name)


@pytest.fixture
def prepare(tmp_path):
    """Makes clean text: `prepare({"en": [documents of a file, ...]}, bitext=rows, near={...})`."""

    def make(corpora, pairs=None, name="work", filters=None, **deduplication):
        folder = tmp_path / name
        folder.mkdir()
        values = {"corpora": [], "bitext": []}
        for lang, files in corpora.items():
            paths = []
            for number, documents in enumerate(files):
                path = folder / f"{lang}{number}.txt"
                path.write_text("\n\n".join(documents) + "\n")
                paths.append(str(path))
            values["corpora"].append({"lang": lang, "paths": paths})
        if pairs:
            (folder / "pairs.tsv").write_text("\n".join("\t".join(pair) for pair in pairs) + "\n")
            values["bitext"].append({"langs": ["en", "ru"], "tsv": [str(folder / "pairs.tsv")]})
        config = DataBuildConfig(
            output=folder / "out",
            deduplication=deduplication,
            filters={"preset": "none", "min_document_chars": 20, **(filters or {})},
            **values,
        )
        return Prepared(config, folder)

    return make


@pytest.fixture
def texts_of():
    """Returns (ids, texts) of a group: `texts_of(plan, reports, folder, name)`."""

    def read(plan, reports, folder, name="en"):
        group = next(group for group in plan.groups if group.name == name)
        ids, texts = [], []
        for block in blocks_of(group, reports, folder):
            numbers = open_cleaned(block.path, False).numbers(block.number)[0]
            every = np.ones(len(numbers), np.bool_)
            ids += numbers.tolist()
            texts += open_cleaned(block.path, True).texts(block.number, every)[0]
        return ids, texts

    return read


class Killed(BaseException):
    """Nothing in the build catches it, as nothing catches a SIGKILL."""


@pytest.fixture
def killed_at_rename(monkeypatch):
    """Runs something that dies at a rename: `killed_at_rename(work, number)` is whether it did."""

    def run(work, number):
        with monkeypatch.context() as patch:
            real, seen = os.replace, [0]

            def replace(source, target):
                seen[0] += 1
                if seen[0] == number:
                    raise Killed
                real(source, target)
                if seen[0] == number + 1:
                    raise Killed

            patch.setattr(os, "replace", replace)
            try:
                work()
            except Killed:
                return True
            return False

    return run
