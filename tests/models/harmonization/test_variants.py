"""Forms of the harmonizers that their test vectors don't have: each trains all that it keeps, and predicts for each picture
alone."""

import pytest
import torch

from tests.models import training, vector

BY_FOREGROUND = {"reconstruction": "foreground_mse", "global_skip": True}
VARIANTS = {
    "iih by foreground": {"width": 4, "guiding_residuals": 1, "lighting_blocks": 1, "recompositions": 1}
    | BY_FOREGROUND,
    "dht with the light's encoder": {"width": 4, "layers": 1, "light_encoder": True},
    "dht by foreground": {"width": 4, "layers": 2} | BY_FOREGROUND,
    "dht as ht": {"form": "ht", "width": 8, "layers": 2},
    "dht as ht by foreground": {"form": "ht", "width": 8, "layers": 2} | BY_FOREGROUND,
    "rainnet alone": {"levels": 4, "width": 8, "adversarial": False},
    "rainnet with mask": {"levels": 4, "width": 4, "mask_input": True, "discriminator_width": 4},
    "rainnet by foreground": {"levels": 4, "width": 8, "adversarial": False} | BY_FOREGROUND,
    "dovenet alone": {"levels": 4, "width": 8, "adversarial": False},
    "dovenet with batch normalization": {"levels": 4, "width": 4, "norm": "batch", "discriminator_width": 4},
    "dovenet by foreground": {"levels": 4, "width": 8, "adversarial": False} | BY_FOREGROUND,
    "s2am with global skip": {"levels": 4, "width": 8, "global_skip": True},
    "s2am by foreground": {"levels": 4, "width": 8} | BY_FOREGROUND,
    "dih with rain": {"levels": 3, "width": 8, "rain": True},
    "dih by foreground": {"levels": 3, "width": 8} | BY_FOREGROUND,
    "bargainnet by foreground": {"levels": 4, "width": 8, "encoder_levels": 3} | BY_FOREGROUND,
    "regional_references on decoder features": {"levels": 4, "width": 8, "image_size": 32, "features": "decoder"},
    "regional_references, other modules": {"levels": 4, "width": 8, "ltl": [], "ptl": [], "self_attention": [32]}
    | {"adain": [128]},
    "regional_references, bare": {"levels": 4, "width": 8, "residual": False, "ltl": [], "ptl": []},
    "region_contrastive towards its goal": {"levels": 4, "width": 8, "patches": 16, "contrast": "goal"}
    | {"fusion": "own_first"},
    "region_contrastive by foreground": {"levels": 4, "width": 8, "patches": 16} | BY_FOREGROUND,
    "region_contrastive with adain": {"levels": 4, "width": 8, "contrastive_weight": 0.0, "fusion": "adain"},
}
SHUT = "*weigh.*"  # channel gates of one or two hidden units, whose ReLU some weights shut
PASTED_OVER = "unet.fusions.2.background_*"  # the background behind the last layer that mixes pixels
WITHOUT_GRADIENT = {"s2am": [SHUT], "region_contrastive": [SHUT, PASTED_OVER]}
for game in ("rainnet", "dovenet"):  # what moves the scores of real and drawn pictures alike
    WITHOUT_GRADIENT[game] = ["discriminator.*bias"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", VARIANTS)
def test_every_variant_trains_what_it_keeps_and_predicts_for_each_picture_alone(kind):
    name = kind.split()[0].strip(",")
    network, batch = vector.build(name, VARIANTS[kind]), vector.batch("harmonization", 32)
    with torch.no_grad():
        together = network(batch)
        alone = [network({key: value[index : index + 1] for key, value in batch.items()}) for index in range(2)]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-5, rtol=0)
    training.assert_gradients(network, batch, WITHOUT_GRADIENT.get(name, ()))
    training.assert_bfloat16(network, batch)
