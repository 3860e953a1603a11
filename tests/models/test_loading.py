"""Models: identified by content, loaded from folders, and clear about what cannot be loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from helpers.errors import UserError
from helpers.models.loading import (
    ModelIdentity,
    decoder_blocks,
    identify,
    load_classifier,
    load_language_model,
    pick_device,
)
from support.sep_process import hub_environment, run_sep
from support.tiny_models import (
    ARCHITECTURES,
    CONTEXT,
    N_LAYERS,
    WIDTH,
    save_classifier,
    save_language_model,
    save_sentence_encoder,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save_language_model(name, root / name) for name in ARCHITECTURES}


@pytest.fixture
def gpt2(folders, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folders["gpt2"], tmp_path / "model"))


def identity_of(folder: Path) -> ModelIdentity:
    return identify(str(folder))


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_identity_is_by_content_and_not_by_name(gpt2, tmp_path):
    first = identity_of(gpt2)
    copy = identity_of(Path(shutil.copytree(gpt2, tmp_path / "another-name")))
    hashes = (first.model_hash, first.tokenizer_hash)
    assert (copy.model_hash, copy.tokenizer_hash) == hashes
    assert len(set(hashes)) == 2

    flip_last_byte(gpt2 / "model.safetensors")
    weights = identity_of(gpt2)
    assert weights.model_hash != first.model_hash
    assert weights.tokenizer_hash == first.tokenizer_hash

    (gpt2 / "tokenizer.json").write_text((gpt2 / "tokenizer.json").read_text() + " ")
    tokenizer = identity_of(gpt2)
    assert tokenizer.model_hash == weights.model_hash
    assert tokenizer.tokenizer_hash != first.tokenizer_hash

    # Another end token makes other answers from the same weights.
    edit_json(gpt2 / "generation_config.json", eos_token_id=[0, 7])
    assert identity_of(gpt2).model_hash != weights.model_hash
    assert load_language_model(str(gpt2), device="cpu").end_ids == {0, 7}


def test_what_follows_the_transformer_belongs_to_a_sentence_encoder(tmp_path):
    folder = save_sentence_encoder(tmp_path / "encoder")
    first = identity_of(folder)
    settings = folder / "1_Pooling" / "config.json"
    settings.write_text(settings.read_text().replace("mean", "cls"))
    assert identity_of(folder).model_hash != first.model_hash


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_loaded_model_knows_its_sizes_and_its_blocks(folders, architecture):
    lm = load_language_model(str(folders[architecture]), device="cpu")
    assert (lm.n_layers, lm.width, lm.context) == (N_LAYERS, WIDTH, CONTEXT)
    assert lm.end_ids == {0}
    assert lm.model.dtype == torch.float32
    assert not lm.model.training
    path, blocks = decoder_blocks(lm.model)
    assert len(blocks) == N_LAYERS
    assert lm.model.get_submodule(path) is blocks
    assert load_language_model(str(folders[architecture]), device="cpu") is lm


def test_a_model_without_one_list_of_blocks_is_refused(folders):
    lm = load_language_model(str(folders["llama"]), device="cpu")
    changed = torch.nn.Module()
    changed.config = lm.model.config
    for name in ("encoder", "decoder"):
        part = torch.nn.Module()
        part.layers = torch.nn.ModuleList([torch.nn.Linear(1, 1) for _ in range(N_LAYERS)])
        setattr(changed, name, part)
    with pytest.raises(UserError, match=r"encoder\.layers.*decoder\.layers.*3 decoder blocks"):
        decoder_blocks(changed)


def test_a_folder_that_is_no_model_is_named_with_what_it_lacks(gpt2, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty.* no config\.json, so it is no model; point at"):
        identity_of(tmp_path / "empty")
    for missing in (str(tmp_path / "gone"), "./gone", "a/b/c"):
        with pytest.raises(UserError, match=r"no such folder; point at a Hugging Face folder"):
            identify(missing)
    with pytest.raises(UserError, match="no such folder"):
        identify(str(gpt2 / "config.json"))
    with pytest.raises(UserError, match="sentence encoder 'lab': the lab has none"):
        identify("lab", "sentence encoder")


def test_pickled_weights_are_never_read_and_a_vocabulary_is_needed(gpt2):
    (gpt2 / "model.safetensors").rename(gpt2 / "weights")
    # Reading this one would raise: it is no pickle at all.
    (gpt2 / "pytorch_model.bin").write_bytes(b"not a pickle")
    with pytest.raises(UserError, match=r"no \.safetensors weights \(pickled weights are never"):
        identity_of(gpt2)
    (gpt2 / "weights").rename(gpt2 / "model.safetensors")
    (gpt2 / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        identity_of(gpt2)


def test_a_damaged_model_is_refused_when_it_is_loaded(gpt2, tmp_path):
    def broken(name: str) -> Path:
        return Path(shutil.copytree(gpt2, tmp_path / name))

    cut = broken("cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    no_json = broken("no-json")
    (no_json / "config.json").write_text("{")
    other_sizes = broken("other-sizes")
    edit_json(other_sizes / "config.json", n_embd=64)
    unknown = broken("unknown")
    edit_json(unknown / "config.json", model_type="no-such-architecture")
    for folder in (cut, no_json, other_sizes, unknown):
        with pytest.raises(UserError, match=rf"{folder.name}.* cannot be loaded as a model"):
            load_language_model(str(folder), device="cpu")


def test_weights_that_a_model_lacks_are_never_made_up(gpt2, tmp_path):
    edit_json(gpt2 / "config.json", n_layer=N_LAYERS + 1)
    with pytest.raises(UserError, match=r"lacks weights .*h\.3\..*incomplete or of another kind"):
        load_language_model(str(gpt2), device="cpu")
    classifier = save_classifier(tmp_path / "classifier")
    with pytest.raises(UserError, match=r"lacks weights .*lm_head|cannot be loaded as a model"):
        load_language_model(str(classifier), device="cpu")
    language_model = save_language_model("llama", tmp_path / "llama")
    with pytest.raises(UserError, match=r"lacks weights that this step needs \(score"):
        load_classifier(identity_of(language_model), "cpu")


def test_an_unreachable_hub_is_said_with_two_ways_on(tmp_path):
    done = run_sep(hub_environment("http://127.0.0.1:9", tmp_path), "identify", "gpt2")
    assert done.status == 2
    for part in ("'openai-community/gpt2' could not be reached", "--preset lab", "local folder"):
        assert part in done.err


def test_a_device_that_is_not_there_is_refused_with_those_that_are(monkeypatch):
    assert pick_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == "cpu"
    for device in ("cuda", "cuda:1", "mps", "tpu"):
        with pytest.raises(UserError, match=rf"'{device}' is not on this machine; there is: cpu"):
            pick_device(device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [pick_device(d) for d in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
    for device in ("cuda:2", "cuda:x"):
        with pytest.raises(UserError, match=r"its GPUs are: cuda:0, cuda:1"):
            pick_device(device)
