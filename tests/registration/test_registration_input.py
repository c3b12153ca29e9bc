"""Images that cannot be registered, each answered by one sentence, and odd ones that can."""

import numpy as np
import pytest

import napari_stnreg as sr
from napari_stnreg.core.errors import InputError
from tests.helpers.scenes import FAST, bent_pair


def field(shape, **options):
    return sr.Image.from_array(np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32), **options)


@pytest.mark.parametrize(
    ("fixed", "moving", "options", "sentence"),
    [
        (
            field((20, 20)),
            field((9, 20, 20)),
            {},
            "is 2D and 'image' is 3D. A slice cannot be registered to a volume yet",
        ),
        (field((1, 20, 20)), field((9, 20, 20)), {}, "axis with a single voxel"),
        (field((20, 20)), sr.Image.from_array(np.full((20, 20), 7)), {}, "'image' is constant"),
        (field((20, 20)), sr.Image.from_array(np.full((20, 20), np.nan)), {}, "NaN or infinite values"),
        (sr.Image.from_array(np.full((20, 20), np.inf)), field((20, 20)), {}, "NaN or infinite values"),
        (field((20, 20), mask=np.zeros((20, 20))), field((20, 20)), {}, "The mask of 'image' is empty"),
        (field((20, 20)), field((20, 20), mask=np.zeros((20, 20))), {}, "The mask of 'image' is empty"),
        (field((20, 20), unit="um"), field((20, 20), unit="pixel"), {}, "unit"),
        (field((20, 20)), field((20, 20), origin=90.0), {"start": "none"}, "do not overlap in the world"),
        (field((20, 20)), field((20, 20)), {"family": "wobbly"}, "there is no transform family 'wobbly'"),
        (field((20, 20)), field((20, 20)), {"family": "bspline+affine"}, "has a linear family after a deformable one"),
        (field((20, 20)), field((20, 20)), {"similarity": "likeness"}, "There is no similarity 'likeness'"),
        (field((20, 20)), field((20, 20)), {"start": "somewhere"}, "Setting 'start'"),
        (field((20, 20)), field((20, 20)), {"device": "abacus"}, "'abacus' is not a device"),
        (field((20, 20)), field((20, 20)), {"device": "cuda:97"}, "'cuda:97' was not found. Use auto or cpu"),
        (field((20, 20)), field((20, 20)), {"fixed_channel": -1}, "Setting 'fixed_channel'"),
    ],
)
def test_bad_input_raises_one_sentence(fixed, moving, options, sentence):
    with pytest.raises(InputError, match=sentence) as command:
        sr.register(fixed, moving, **options)
    assert str(command.value).endswith(".")
    assert "\n" not in str(command.value)


@pytest.mark.parametrize("side", ["fixed", "moving", "both"])
def test_a_background_of_nan_is_masked_with_a_notice(side):
    images = bent_pair(size=64)
    sides = {"fixed": images.fixed, "moving": images.moving}
    for name in sides if side == "both" else [side]:
        data = sides[name].data.astype(np.float32)
        data[:12] = np.nan
        data[-3:, -3:] = np.inf
        sides[name] = sides[name].replace(data=data, name=name)
    before = [image.data.copy() for image in sides.values()]
    with pytest.warns(sr.RegistrationWarning, match=r"of the voxels of '\w+' are NaN or infinite and are masked"):
        result = sr.register(*sides.values(), family="affine", **FAST)
    assert np.isfinite(list(result.scores["after"].values())).all()
    assert np.isfinite(result.transform.map_points([[30.0, 30.0]])).all()
    assert result.scores["after"]["ncc"] > result.scores["before"]["ncc"]
    for image, data in zip(sides.values(), before, strict=True):
        np.testing.assert_array_equal(image.data, data)


def test_the_folding_warning_advises_what_the_settings_have_not():
    from napari_stnreg.registration.result import _folding_warning

    advice = {
        "bspline": "Increase the smoothness or use the diffeomorphic family.",
        "affine+diffeomorphic": "Increase the smoothness.",
    }
    for family, text in advice.items():
        settings = sr.RegistrationSettings.parse(family=family)
        assert _folding_warning(0.01, settings, has_landmarks=False) == f"1.00 % of the voxels are folded. {text}"
    settings = sr.RegistrationSettings.parse(family="affine+diffeomorphic")
    text = _folding_warning(1e-6, settings, has_landmarks=True)
    assert text == "Less than 0.01 % of the voxels are folded. Increase the smoothness or lower the landmark weight."


def test_same_image_is_refused_except_for_two_channels():
    image = field((20, 20))
    with pytest.raises(InputError, match=r"are the same image. Choose two different ones"):
        sr.register(image, image)
    with pytest.raises(InputError, match="are the same image"):
        sr.register(image, image.replace(name="other"))
    images = bent_pair(size=32)
    both = sr.Image(np.stack([images.fixed.data, images.moving.data], axis=-1), images.fixed.grid)
    result = sr.register(both, both, fixed_channel=0, moving_channel=1, iterations=3, **FAST)
    assert result.stop_reason == "finished"


@pytest.mark.parametrize("shape", [(2, 30, 30), (40, 3), (5, 20, 24), (3, 3)])
@pytest.mark.parametrize("similarity", ["lncc", "mi", "mind"])
def test_thin_images_work(shape, similarity):
    rng = np.random.default_rng(0)
    images = [sr.Image.from_array(rng.normal(size=shape).astype(np.float32)) for _ in range(2)]
    result = sr.register(*images, similarity=similarity, iterations=2, device="cpu")
    assert result.warped.data.shape == shape
    assert np.isfinite(result.transform.displacement(images[0].grid)).all()


def test_an_unknown_setting_is_rejected():
    image = field((20, 20))
    with pytest.raises(TypeError, match="color"):
        sr.register(image, field((20, 20)), color="red")
    with pytest.raises(sr.InputError, match="Setting 'color'"):
        next(sr.register_steps(image, field((20, 20)), color="red"))


def test_noisy_and_half_empty_images():
    rng = np.random.default_rng(0)
    noise = [sr.Image.from_array(rng.normal(size=(48, 48))) for _ in range(2)]
    result = sr.register(*noise, **FAST)
    assert result.folding_fraction == 0
    sparse = np.zeros((48, 48))
    sparse[20, 30] = 1.0
    other = np.zeros((48, 48))
    other[24, 27] = 1.0
    result = sr.register(sr.Image.from_array(sparse), sr.Image.from_array(other), family="translation", device="cpu")
    assert np.allclose(result.transform.map_points([[20.0, 30.0]]), [[24.0, 27.0]], atol=0.5)
