"""Files made to do harm: pickles in the place of every file, paths and links that lead outside."""

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from megaxlm.checkpoint import state_json
from megaxlm.checkpoint.catalog import find_latest, list_checkpoints, remove_leftovers
from megaxlm.checkpoint.exchange import export_checkpoint, import_hf
from megaxlm.checkpoint.fragments import whole
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.resolve import load_model, load_weights
from megaxlm.checkpoint.retention import apply_retention, select_resume
from megaxlm.checkpoint.saver import CheckpointSaver
from megaxlm.errors import CorruptDataError, UserError

CHECKPOINT_FILES = (
    "rank-00000.safetensors",
    "rank-00000.json",
    "shared.json",
    "manifest.json",
    "COMPLETE",
    "../saved.json",
)
HF_FILES = (
    "config.json",
    "model.safetensors",
    "sentencepiece.bpe.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


class Payload:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = str(proof)

    def __reduce__(self):
        return Path.touch, (Path(self.proof),)


@pytest.fixture(params=["pickle", "torch.save"])
def hostile(request, tmp_path):
    """The bytes of a malicious file, shown to be live; at the end: nothing has executed it."""
    proof = tmp_path / "executed"
    if request.param == "pickle":
        content = pickle.dumps(Payload(proof))
        pickle.loads(content)
    else:
        torch.save({"model": Payload(proof)}, tmp_path / "made.bin")
        content = (tmp_path / "made.bin").read_bytes()
        torch.load(tmp_path / "made.bin", weights_only=False)
    assert proof.exists()
    proof.unlink()
    yield content
    assert not proof.exists()


def one_line(error):
    message = str(error)
    assert "\n" not in message and len(message) < 600, message
    return message


def vouch(path, name):
    """Lets manifest and marker vouch for an altered file, as whoever can write there can."""
    manifest = json.loads((path / "manifest.json").read_text())
    content = (path / name).read_bytes()
    manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_manifest(path, manifest)


def write_manifest(path, manifest):
    content = json.dumps(manifest).encode()
    (path / "manifest.json").write_bytes(content)
    (path / "COMPLETE").write_text(hashlib.sha256(content).hexdigest() + "\n")


def read_everything(path):
    with CheckpointReader(path) as reader:
        for name in reader.names():
            reader.full(name)
        return reader.shared, reader.rank_state(0)


@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_a_pickle_in_a_checkpoint_is_never_executed(make_run, tmp_path, hostile, name):
    run_dir = make_run()
    path = find_latest(run_dir)
    (path / name).write_bytes(hostile)
    if name == "../saved.json":  # a note beside the checkpoints, of which this one is whole
        assert select_resume(run_dir).path == path and read_everything(path)
        return
    for read in (read_everything, load_weights, load_model):
        with pytest.raises(CorruptDataError) as caught:
            read(path)
        assert name in one_line(caught.value)
    with pytest.raises(CorruptDataError, match="none of 1 checkpoints is whole") as caught:
        select_resume(run_dir)
    one_line(caught.value)
    if name == "COMPLETE":
        return
    if name == "manifest.json":
        (path / "COMPLETE").write_text(hashlib.sha256(hostile).hexdigest())
    else:
        vouch(path, name)
    with pytest.raises(CorruptDataError) as caught:
        read_everything(path)
    one_line(caught.value)
    if name == "rank-00000.json":
        export_checkpoint(path, tmp_path / "out")  # does not look at it
        return
    with pytest.raises(CorruptDataError) as caught:
        export_checkpoint(path, tmp_path / "out")
    one_line(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", HF_FILES)
def test_a_pickle_in_a_hugging_face_folder_is_never_executed(make_run, tmp_path, hostile, name):
    export_checkpoint(make_run(), tmp_path / "hf")
    optional = not (tmp_path / "hf" / name).exists()
    (tmp_path / "hf" / name).write_bytes(hostile)
    for without_sentencepiece in (False, True):
        if without_sentencepiece:  # its tokenizer is then read by Transformers
            (tmp_path / "hf" / "sentencepiece.bpe.model").unlink()
        for read in (load_model, lambda path: import_hf(path, tmp_path / "out")):
            try:
                read(tmp_path / "hf")
            except UserError as error:
                one_line(error)
            else:  # a file that is not looked at
                looked_at = name in ("config.json", "model.safetensors")
                looked_at |= name == "tokenizer.json" and without_sentencepiece
                looked_at |= name == "sentencepiece.bpe.model" and not without_sentencepiece
                assert optional or not looked_at, name
            shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_pickled_weights_are_refused_by_name(make_run, tmp_path, hostile):
    export_checkpoint(make_run(), tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    (tmp_path / "hf" / "pytorch_model.bin").write_bytes(hostile)
    with pytest.raises(UserError, match="holds pickled weights") as caught:
        load_model(tmp_path / "hf")
    one_line(caught.value)
    index = {"weight_map": {"lm_head.bias": "pytorch_model.bin"}}
    (tmp_path / "hf" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CorruptDataError, match=r"pytorch_model.bin: not a readable safetensors"):
        load_model(tmp_path / "hf")


def test_code_that_a_tokenizer_brings_along_is_not_run(make_run, tmp_path):
    export_checkpoint(make_run(), tmp_path / "hf")
    (tmp_path / "hf" / "sentencepiece.bpe.model").unlink()
    proof = tmp_path / "executed"
    (tmp_path / "hf" / "evil.py").write_text(f"open({str(proof)!r}, 'w')\nclass Evil: pass\n")
    for name, key in (("tokenizer_config.json", "AutoTokenizer"), ("config.json", "AutoConfig")):
        path = tmp_path / "hf" / name
        content = json.loads(path.read_text())
        content |= {"auto_map": {key: "evil.Evil"}, "tokenizer_class": "Evil"}
        path.write_text(json.dumps(content))
        try:
            load_model(tmp_path / "hf")
        except UserError as error:
            one_line(error)
        assert not proof.exists()


def test_an_export_takes_tokenizer_files_alone_and_no_links(make_run, tmp_path):
    run_dir = make_run()
    export_checkpoint(run_dir, tmp_path / "clean")
    secret = tmp_path / "secret"
    secret.write_text("not of this run")
    for name in ("model.safetensors", "config.json", "pytorch_model.bin", "evil.py"):
        (run_dir / "tokenizer" / name).write_text("planted")
    os.symlink(secret, run_dir / "tokenizer" / "notes.txt")
    export_checkpoint(run_dir, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == sorted(os.listdir(tmp_path / "clean"))
    for name in os.listdir(tmp_path / "clean"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "clean" / name).read_bytes()
    os.symlink(secret, run_dir / "tokenizer" / "added_tokens.json")
    with pytest.raises(UserError, match=r"added_tokens.json: a link, not a plain file"):
        export_checkpoint(run_dir, tmp_path / "linked")
    assert not (tmp_path / "linked").exists()


@pytest.mark.parametrize(
    "name", ["model/../../escaped", "/escaped", "model/\x00", "model/" + "n" * 9000]
)
def test_tensor_names_are_keys_and_never_paths(tmp_path, name):
    before = set(tmp_path.rglob("*escaped*"))
    saver = CheckpointSaver(tmp_path / "run")
    saver.save_now(1, [whole(name, torch.ones(3))], {}, {})
    path = find_latest(tmp_path / "run")
    with CheckpointReader(path) as reader:
        assert reader.names() == [name] and reader.full(name).tolist() == [1, 1, 1]
    assert set(tmp_path.rglob("*escaped*")) == before
    with pytest.raises(UserError) as caught:
        export_checkpoint(path, tmp_path / "out")
    one_line(caught.value)


def test_an_export_ignores_tensors_that_are_not_the_models(make_run, tmp_path):
    run_dir = make_run()
    weights = load_weights(run_dir)
    names = {*weights.parameters, "../../escaped"}
    fragments = [
        whole(f"model/{name}", weights.parameters.get(name, torch.ones(2))) for name in names
    ]
    shared = CheckpointReader(find_latest(run_dir)).shared
    saver = CheckpointSaver(run_dir)
    saver.save_now(30, fragments, {}, shared)
    with pytest.raises(CorruptDataError) as caught:
        load_model(run_dir)
    one_line(caught.value)
    try:
        export_checkpoint(run_dir, tmp_path / "out")
    except UserError as error:
        one_line(error)
    assert not list(tmp_path.parent.rglob("escaped"))


@pytest.mark.parametrize(
    "tag",
    [
        "step-0000001٢",
        "step-0000000002",
        "step-00000002.staging.staging",
        "step-",
    ],
)
def test_folders_that_are_not_exactly_ours_are_not_checkpoints(save_two, tmp_path, tag):
    good = save_two(tmp_path, 1)
    shutil.copytree(good, good.parent / tag)
    assert [folder.path for folder in list_checkpoints(tmp_path)] == [good]
    assert select_resume(tmp_path).path == good


@pytest.mark.parametrize("suffix", [".staging", ".deleting", ""])
def test_a_linked_folder_is_never_followed_when_something_is_removed(save_two, tmp_path, suffix):
    precious = tmp_path / "precious"
    for step in (3, 4):
        save_two(tmp_path, step)
    shutil.copytree(tmp_path / "checkpoints" / "step-00000003", precious)
    before = sorted(os.listdir(precious))
    os.symlink(precious, tmp_path / "checkpoints" / f"step-00000002{suffix}")
    remove_leftovers(tmp_path / "checkpoints")
    apply_retention(tmp_path, keep_last=1, saved_step=4)
    save_two(tmp_path, 2 if suffix else 5)
    assert sorted(os.listdir(precious)) == before


BOMB = b'{"a":' * 100_000


@pytest.mark.parametrize("name", CHECKPOINT_FILES[1:])
def test_deeply_nested_json_is_damage_not_a_crash(make_run, name):
    run_dir = make_run()
    path = find_latest(run_dir)
    (path / name).write_bytes(BOMB)
    if name == "../saved.json":
        assert select_resume(run_dir).path == path
        return
    if name == "manifest.json":
        (path / "COMPLETE").write_text(hashlib.sha256(BOMB).hexdigest())
    elif name != "COMPLETE":
        vouch(path, name)
    with pytest.raises(CorruptDataError) as caught:
        read_everything(path)
    one_line(caught.value)


@pytest.mark.parametrize(
    "fragments", [[[0, 0, 10**15]], [[0, 0, 10**12, 1000]], [[0, 0, 1, 10**15]]]
)
def test_a_manifest_that_asks_for_all_memory_is_refused(make_run, fragments):
    path = find_latest(make_run())
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["tensors"]["model/bomb"] = {"shape": [10**15], "dtype": "F32", "fragments": fragments}
    write_manifest(path, manifest)
    with pytest.raises(CorruptDataError, match="damaged manifest") as caught:
        read_everything(path)
    one_line(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        {"model/w@0": {"dtype": "F32", "shape": [4], "data_offsets": [0, 10**9]}},
        {"model/w@0": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}},
        {"model/w@0": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}},
        {"model/w@0": {"dtype": "F32", "shape": [4]}},
        {"model/w@0": [1, 2]},
        {"model/w@0": {"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}},
        {"model/w@0": {"dtype": "I32", "shape": [4], "data_offsets": [0, 16]}},
        {"model/w@1": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}},
        [],
    ],
)
def test_a_header_that_lies_is_damage(tmp_path, header):
    CheckpointSaver(tmp_path).save_now(1, [whole("model/w", torch.ones(4))], {}, {})
    path = find_latest(tmp_path)
    encoded = json.dumps(header).encode()
    content = len(encoded).to_bytes(8, "little") + encoded + bytes(16)
    (path / "rank-00000.safetensors").write_bytes(content)
    vouch(path, "rank-00000.safetensors")
    with pytest.raises(CorruptDataError, match=r"rank-00000.safetensors") as caught:
        read_everything(path)
    one_line(caught.value)
    (path / "rank-00000.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + bytes(99))
    vouch(path, "rank-00000.safetensors")
    with pytest.raises(CorruptDataError, match="not a safetensors file"):
        read_everything(path)


@pytest.mark.parametrize(
    "state",
    [
        {"__array__": ["|O", [1], "AAAAAAAAAAA="]},
        {"__array__": ["<f8", [-1, 10**12], "AAAA"]},
        {"__tensor__": ["F32", [10**12], "AAAA"]},
        {"__tensor__": ["PICKLE", [1], "gASVAAAA"]},
        {"__bytes__": "not base64"},
        {"__float__": "one"},
        {"__tuple__": 5},
    ],
)
def test_encoded_values_that_lie_are_damage(state):
    with pytest.raises(ValueError, match=r"."):
        state_json.loads(json.dumps({"value": state}).encode())
