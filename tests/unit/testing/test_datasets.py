from pathlib import Path

from megaxlm.data.shards import Shard, file_xxh3, read_index
from megaxlm.data.store import check_tokenizer
from megaxlm.testing.datasets import write_dataset


def test_written_data_sets_keep_the_contract(tmp_path: Path) -> None:
    index = write_dataset(
        tmp_path,
        {"en": [[4, 5, 6], [7], []] * 3},
        {("en", "fr"): [([4, 5], [9, 9, 9]), ([4], [8])]},
        vocab_size=77,
        validation={"en": [[9]]},
        rows_per_shard=4,
    )
    assert read_index(tmp_path) == index
    check_tokenizer(tmp_path, index)
    assert [(s.split, s.name, len(s.shards)) for s in index.subsets] == [
        ("train", "en", 3),
        ("train", "en-fr", 1),
        ("validation", "en", 1),
    ]
    assert [(s.rows, s.tokens) for s in index.subsets] == [(9, 12), (2, 7), (1, 1)]
    for subset in index.subsets:
        for info in subset.shards:
            assert file_xxh3(tmp_path / info.path) == info.xxh3
    values, offsets = Shard(tmp_path, index.subsets[0].shards[1], False).sides[0]
    assert values.tolist() == [7, 4, 5, 6, 7] and offsets.tolist() == [0, 1, 1, 4, 5]
    pair = Shard(tmp_path, index.subsets[1].shards[0], True)
    assert [side[0].tolist() for side in pair.sides] == [[4, 5, 4], [9, 9, 9, 8]]
