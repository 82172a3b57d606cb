from pathlib import Path
from typing import Any

import pytest

from megaxlm.config.pretrain import CurriculumPhase, DataConfig, ObjectiveConfig
from megaxlm.data.packed_rows import DocumentRows, PairRows
from megaxlm.data.sampling import Mixture
from megaxlm.data.store import ShardStore
from megaxlm.data.stream_rows import StreamRows
from megaxlm.errors import UserError
from megaxlm.objectives.base import RowSettings
from megaxlm.objectives.mixture import build_mixture, row_format_of
from megaxlm.testing.datasets import write_dataset

MLM, TLM = ObjectiveConfig(name="mlm", weight=3), ObjectiveConfig(name="tlm", weight=1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dataset")
    write_dataset(
        directory,
        {"en": [[5] * 10] * 8, "fr": [[5] * 10] * 2, "empty": [[]]},
        {("en", "fr"): [([6], [7])] * 9, ("de", "en"): [([6], [7])]},
    )
    return directory


def mixture(directory: Path, *objectives: ObjectiveConfig, **data: Any) -> Mixture:
    config = DataConfig(path=directory, seq_len=16, **data)
    store = ShardStore(directory)
    settings = RowSettings(row_format_of(config), config.packing, seed=0)
    return build_mixture(store, config, objectives, settings)


def shares(mixed: Mixture, phase: int = 0) -> dict[str, float]:
    names = [source.name for source in mixed.sources]
    return dict(zip(names, mixed.phases[phase].probabilities, strict=True))


def test_objectives_by_weight_times_languages_by_alpha(dataset: Path) -> None:
    mixed = mixture(dataset, MLM, TLM, sampling_alpha=1.0)
    assert shares(mixed) == pytest.approx(
        {"mlm/en": 0.6, "mlm/fr": 0.15, "tlm/en-fr": 0.225, "tlm/de-en": 0.025}
    )
    flat = shares(mixture(dataset, MLM, TLM, sampling_alpha=0.0))
    assert flat == pytest.approx(
        {"mlm/en": 0.375, "mlm/fr": 0.375, "tlm/en-fr": 0.125, "tlm/de-en": 0.125}
    )


def test_languages_limit_text_and_pairs(dataset: Path) -> None:
    mixed = mixture(dataset, MLM, TLM, languages=["en", "fr"])
    assert set(shares(mixed)) == {"mlm/en", "mlm/fr", "tlm/en-fr"}
    with_pairs_alone = mixture(dataset, MLM, TLM, languages=["en", "de"])
    assert set(shares(with_pairs_alone)) == {"mlm/en", "tlm/de-en"}


def test_objectives_choose_the_kind_of_rows(dataset: Path) -> None:
    assert [type(s) for s in mixture(dataset, MLM).sources] == [StreamRows, StreamRows]
    packed = mixture(dataset, MLM, packing="documents")
    assert [type(s) for s in packed.sources] == [DocumentRows, DocumentRows]
    assert [type(s) for s in mixture(dataset, TLM).sources] == [PairRows, PairRows]


def test_phases_inherit_what_they_do_not_name(dataset: Path) -> None:
    phases = [
        CurriculumPhase(from_tokens=10, sampling_alpha=0.0),
        CurriculumPhase(from_tokens=32, languages=["fr", "en"]),
        CurriculumPhase(from_tokens=33, objectives=[MLM, TLM]),
        CurriculumPhase(from_tokens=40, sampling_alpha=1.0),
    ]
    mixed = mixture(dataset, MLM, curriculum=phases, sampling_alpha=1.0)
    # The last two begin within the third row: the later one is in force from the fourth on.
    assert [phase.start_row for phase in mixed.phases] == [0, 1, 2, 3]
    assert shares(mixed, 0) == pytest.approx({"mlm/en": 0.8, "mlm/fr": 0.2, "tlm/en-fr": 0.0})
    assert shares(mixed, 1) == pytest.approx({"mlm/en": 0.5, "mlm/fr": 0.5, "tlm/en-fr": 0.0})
    assert shares(mixed, 2) == pytest.approx({"mlm/en": 0.5, "mlm/fr": 0.5, "tlm/en-fr": 0.0})
    assert shares(mixed, 3) == pytest.approx({"mlm/en": 0.6, "mlm/fr": 0.15, "tlm/en-fr": 0.25})


@pytest.mark.parametrize(
    ("objectives", "data", "message"),
    [
        ([MLM], {"languages": ["en", "frr"]}, r"data.languages: frr has no training data for mlm "),
        ([MLM], {"languages": ["en", "frr"]}, r"\(did you mean fr\?\); there is: en, fr$"),
        ([MLM], {"languages": ["en", "de"]}, r"data.languages: de has no training data for mlm "),
        ([MLM, TLM], {"languages": ["zz"]}, r"for mlm or tlm in .*; there is: de, en, fr$"),
        ([MLM, TLM], {"languages": ["en"]}, r"objective tlm needs bitext, and .* has none among"),
        (
            [MLM],
            {"curriculum": [CurriculumPhase(from_tokens=99, languages=["zz"])]},
            r"data.curriculum.0.languages: zz has no",
        ),
    ],
)
def test_what_the_data_set_lacks_is_one_line(
    dataset: Path, objectives: list[ObjectiveConfig], data: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        mixture(dataset, *objectives, **data)
    assert "\n" not in str(caught.value)


def test_tlm_without_bitext(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"en": [[5, 6]]})
    with pytest.raises(UserError, match="objective tlm needs bitext, and .* has none: add it"):
        mixture(tmp_path, MLM, TLM)
