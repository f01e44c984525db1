"""Images into patches: the range of their values, and what a folder's preprocessor_config.json says of them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tiny

import lora_np as lnp
from lora_np.datasets import tokenizers
from lora_np.formats import pretrained

SIDE, CHANNELS = tiny.VIT["image_size"], tiny.VIT["num_channels"]
IMAGES = np.random.default_rng(0).random((3, SIDE, SIDE, CHANNELS)).astype(np.float32)
FILE = "preprocessor_config.json"
# As transformers' ViTImageProcessor saves it, but for the sizes.
USUAL = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.4, 0.6],
    "image_processor_type": "ViTImageProcessor",
    "image_std": [0.2, 0.5],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": SIDE, "width": SIDE},
}


@pytest.fixture
def folder(tmp_path):
    lnp.save_model(tiny.build("vit", np.float32), tmp_path / "vit")
    return tmp_path / "vit"


def write(folder, **changes):
    given = {name: value for name, value in {**USUAL, **changes}.items() if value != "missing"}
    (folder / FILE).write_text(json.dumps(given))


def plain(folder, images=IMAGES):
    """Return the patches of images as they are."""
    (folder / FILE).unlink(missing_ok=True)
    return lnp.load_tokenizer(folder)(images)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_images_are_normalised_as_the_folder_says(folder, dtype):
    images = IMAGES.astype(dtype)
    by_hand = (images - np.array([0.4, 0.6], dtype)) / np.array([0.2, 0.5], dtype)
    write(folder)
    patches = lnp.load_tokenizer(folder)(images)
    assert patches.dtype == dtype
    # The patches move numbers only, so that those of the images as they are tell which is which.
    places = plain(folder, np.linspace(0, 1, images.size).reshape(images.shape))
    assert np.allclose(patches, by_hand.reshape(-1)[np.rint(places * (images.size - 1)).astype(int)], rtol=1e-6)


def test_without_the_file_values_are_taken_as_they_are(folder):
    assert np.array_equal(np.sort(plain(folder), axis=None), np.sort(IMAGES, axis=None))


@pytest.mark.parametrize(
    "changes",
    [
        {"size": SIDE},
        {"do_resize": False, "size": {"height": 224, "width": 224}},
        {"do_resize": False, "size": "missing"},
        {"do_rescale": False, "rescale_factor": 7},
        {"rescale_factor": 1 / 255},
        {"rescale_factor": "missing"},
        {"image_processor_type": "missing", "feature_extractor_type": "ViTFeatureExtractor"},
        {"image_processor_type": "ViTImageProcessorFast", "do_center_crop": False, "device": None, "crop_size": None},
        {"do_convert_rgb": False},
        {"do_rescale": "missing", "do_normalize": "missing", "do_resize": "missing"},
    ],
)
def test_what_changes_nothing_is_read(folder, changes):
    write(folder)
    right = lnp.load_tokenizer(folder)(IMAGES)
    write(folder, **changes)
    assert np.array_equal(lnp.load_tokenizer(folder)(IMAGES), right)


def test_one_mean_serves_all_channels_and_the_default_is_one_half(folder):
    write(folder, image_mean=0.5, image_std=0.5)
    right = lnp.load_tokenizer(folder)(IMAGES)
    assert np.allclose(right, (plain(folder) - 0.5) / 0.5, rtol=1e-6, atol=1e-6)
    write(folder, image_mean="missing", image_std="missing")
    assert np.array_equal(lnp.load_tokenizer(folder)(IMAGES), right)


def test_a_processor_may_leave_numbers_as_they_are(folder):
    write(folder, do_normalize=False, image_mean="anything")
    patches = lnp.load_tokenizer(folder)(IMAGES)
    assert np.array_equal(patches, plain(folder))


@pytest.mark.parametrize(
    ("changes", "received"),
    [
        ({"size": 224}, "size = 224; only the 6 x 6"),
        ({"size": {"height": 6, "width": 7}}, "'width': 7"),
        ({"size": {"shortest_edge": 6}}, "shortest_edge"),
        ({"size": "6"}, "size = '6'"),
        ({"size": True}, "size = True"),
        ({"size": "missing"}, "size = 224"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor = 0.0078"),
        ({"rescale_factor": "1/255"}, "rescale_factor = '1/255'"),
        ({"rescale_factor": math.nan}, "NaN is no number"),
        ({"do_normalize": "yes"}, "do_normalize = 'yes'; only true or false"),
        ({"do_rescale": 1}, "do_rescale = 1"),
        ({"do_resize": []}, r"do_resize = \[\]"),
        ({"do_center_crop": True}, "do_center_crop = True"),
        ({"crop_pct": 0.9}, "crop_pct = 0.9"),
        ({"do_pad": True}, "do_pad = True"),
        ({"image_processor_type": "CLIPImageProcessor"}, "CLIPImageProcessor"),
        ({"image_processor_type": ["ViTImageProcessor"]}, "image_processor_type"),
        ({"image_mean": [0.5]}, r"image_mean = \[0.5\]; only 2 number"),
        ({"image_mean": [0.5, 0.5, 0.5]}, "image_mean"),
        ({"image_mean": "0.5"}, "image_mean = '0.5'"),
        ({"image_mean": ["0.5", "0.5"]}, "image_mean"),
        ({"image_mean": [0.5, math.nan]}, "NaN is no number"),
        ({"image_mean": [127.5, 127.5]}, "image_mean = .127.5"),
        ({"image_mean": [True, False]}, "image_mean"),
        ({"image_mean": {"r": 0.5, "g": 0.5}}, "image_mean"),
        ({"image_mean": [[0.5, 0.5]]}, "image_mean"),
        ({"image_std": [0.5, 0.0]}, "image_std"),
        ({"image_std": [0.5, -0.5]}, "image_std"),
        ({"image_std": [0.5, math.inf]}, "Infinity is no number"),
        ({"image_std": [10**400, 0.5]}, "image_std"),
        ({"image_std": [None, 0.5]}, "image_std"),
    ],
)
def test_what_is_not_done_here_is_refused_by_its_name(folder, changes, received):
    write(folder, **changes)
    with pytest.raises(ValueError, match=received) as caught:
        lnp.load_tokenizer(folder)
    assert FILE in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_file_is_named(folder):
    for text in ("{", "[]", ""):
        (folder / FILE).write_text(text)
        with pytest.raises(ValueError, match=FILE):
            lnp.load_tokenizer(folder)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("factor", [16.0, 255.0, -1.0, 1.01])
def test_images_of_another_range_are_refused(folder, factor, normalised):
    if normalised:
        write(folder)
    images = factor * np.clip(IMAGES + 0.5, 0, 1)
    for tokenizer, given in (
        (lnp.load_tokenizer(folder), images),
        (lnp.load_tokenizer("digits"), factor * np.ones((2, 8, 8))),
    ):
        with pytest.raises(ValueError, match=r"values in 0\.\.1, but they run from .*; divide by"):
            tokenizer(given)


def test_images_of_another_size_are_sent_back(folder):
    for images in (IMAGES[:, :4], IMAGES[..., :1], IMAGES[0], (255 * IMAGES).astype(np.uint8)):
        with pytest.raises(ValueError, match="expected finite float images.*resize and cut them before"):
            lnp.load_tokenizer(folder)(images)


def test_a_model_made_of_another_takes_the_processor_along(folder, tmp_path):
    write(folder)
    tokenizers.copy_tokenizer(folder, tmp_path / "new")
    assert json.loads((tmp_path / "new" / FILE).read_text())["image_std"] == [0.2, 0.5]


@pytest.fixture
def named_as_ours(folder, tmp_path, monkeypatch):
    """Stand where folders have the names of our models."""
    for name in pretrained.NAMED:
        lnp.save_model(tiny.build("vit", np.float32), tmp_path / name)
        write(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained, "fetch_minilm", lambda: Path("fetched"))
    monkeypatch.setattr(pretrained, "fetch_e5", lambda: Path("fetched"))


@pytest.mark.parametrize("name", pretrained.NAMED)
def test_a_path_is_a_folder_and_a_name_is_a_model(named_as_ours, name, tmp_path):
    for source in (Path(name), Path(f"./{name}"), f"./{name}", f"{name}/", tmp_path / name, str(tmp_path / name)):
        pretrained.check_source(source)
        assert lnp.load_pretrained(source).config["hidden_size"] == tiny.VIT["hidden_size"]
        assert lnp.load_tokenizer(source).image_size == SIDE
        tokenizers.copy_tokenizer(source, tmp_path / "copy")
        assert (tmp_path / "copy" / FILE).exists()
    assert pretrained.model_folder(name) != Path(name)
    assert lnp.load_tokenizer("digits").image_size == 8


@pytest.mark.parametrize(
    "source", [None, 5, b"digits", Path("digits"), Path("minilm"), Path("e5"), ["digits"], {}, True]
)
@pytest.mark.parametrize(
    "call", [lnp.load_pretrained, lnp.load_tokenizer, pretrained.check_source, pretrained.model_folder]
)
def test_what_names_no_model_is_refused(call, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="there is no model .*; expected 'digits', 'minilm', 'e5', a folder"):
        call(source)
