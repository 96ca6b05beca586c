import numpy as np
import pandas as pd

from pipeline import repeats


def scores(**means: list[float]) -> pd.DataFrame:
    """Two images, 1 below and 1 above the mean of each training."""
    rows = []
    for model, of_trainings in means.items():
        for number, mean in enumerate(of_trainings, 1):
            rows += [
                {"model": model, "repeat": number, "split": "test", "image_id": image, "psnr": mean + offset, "n": 3}
                for image, offset in (("a", -1.0), ("b", 1.0))
            ]
    return pd.DataFrame(rows)


def test_names_of_folders_come_back():
    for model, repeat in (("unet", 1), ("unet", 2), ("my-net_3", 12)):
        assert repeats.parse(repeats.folder_name(model, repeat)) == (model, repeat)
    assert repeats.folder_name("unet", 1) == "unet" and repeats.folder_name("unet", 2) == "unet@2"
    assert repeats.parse("unet@x") == ("unet@x", 1)


def test_averages_are_over_trainings_and_a_single_one_is_left_as_it_is():
    made = repeats.averaged(scores(net=[10.0, 13.0, 16.0], untrained=[4.0]), ["split", "image_id"])
    assert list(made.columns) == ["model", "split", "image_id", "psnr", "n"]
    assert made["model"].tolist() == ["net", "net", "untrained", "untrained"]
    assert made["psnr"].tolist() == [12.0, 14.0, 3.0, 5.0]
    single = scores(net=[10.0])
    pd.testing.assert_frame_equal(
        repeats.averaged(single, ["split", "image_id"]), single.drop(columns="repeat"), check_exact=True
    )


def test_what_a_training_lacks_is_the_mean_of_the_others():
    table = scores(net=[10.0, 14.0])
    table.loc[(table["repeat"] == 2) & (table["image_id"] == "a"), "psnr"] = np.nan
    assert repeats.averaged(table, ["split", "image_id"])["psnr"].tolist() == [9.0, 13.0]


def test_pairs_whose_order_depends_on_the_training():
    table = scores(near=[10.0, 13.0, 16.0], other=[12.0, 11.0, 12.0], far=[1.0, 2.0, 3.0], fixed=[12.5])
    # near is ahead of other with 13 and 16 against all three, and with 10 against none: 6 of 9
    # near is ahead of fixed with 13 and 16; fixed is ahead of other always; far is behind everywhere
    pairs = repeats.order_by_seed(table, "psnr", higher_is_better=True).to_dict("records")
    assert pairs == [
        {"first": "near", "second": "fixed", "ahead": 2, "pairs": 3},
        {"first": "near", "second": "other", "ahead": 6, "pairs": 9},
    ]
    assert repeats.order_by_seed(table[table["repeat"] == 1], "psnr", higher_is_better=True).empty
