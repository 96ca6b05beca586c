from collections import Counter

import numpy as np
import pandas as pd
import pytest

from pipeline import seeds, tables
from pipeline.data.composites.plan import MOMENT, RELIGHT, RENDITION, RETOUCH, Plan
from tests.pipeline.data.composites import making

METHODS = ["reinhard", "xiao", "fecker", "pitie"]


def plan_of(source, name="HCOCO", seed=3, references=None, filters=None, **changes):
    return Plan(
        name,
        making.subset(**changes),
        METHODS,
        making.rendering(**(filters or {})).filters,
        source,
        references or source,
        seed,
    )


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """800 objects of four categories on 400 photographs, three to a scene, in three splits."""
    rng = np.random.default_rng(8)
    numbers = np.arange(800)
    objects = pd.DataFrame({
        "image_id": [f"p{number // 2:04d}" for number in numbers], "instance_id": [str(number % 2 + 1) for number in numbers],
        "category": rng.choice(["car", "cup", "dog", "sky"], 800), "group": [f"g{number // 6}" for number in numbers],
        "split": [("train", "train", "val", "test")[number // 6 % 4] for number in numbers],
        "area": np.rint(np.exp(rng.uniform(np.log(60), np.log(8500), 800))).astype(int),
    })  # fmt: skip
    return making.write_tables(tmp_path_factory.mktemp("crowd"), objects)


@pytest.fixture(scope="module")
def fivek(tmp_path_factory):
    return making.fivek_source(tmp_path_factory.mktemp("fivek"))


@pytest.fixture(scope="module")
def timelapse(tmp_path_factory):
    return making.timelapse_source(tmp_path_factory.mktemp("timelapse"))


# ---- recoloured after a reference object


def known(source):
    frame = tables.read(source / "instances.parquet")
    groups = tables.read(source / "photographs.parquet").set_index("image_id")["group"]
    return frame.assign(group=frame["image_id"].map(groups).to_numpy()).set_index(["image_id", "instance_id"])


@pytest.mark.parametrize("same_category", [True, False])
def test_references_obey_every_rule(crowd, same_category):
    objects = known(crowd).to_dict("index")
    plan, checked = plan_of(crowd, same_category=same_category, filters={"max_area_ratio": 4}), 0
    for target in plan:
        own = objects[target.image_id, target.object]
        for draw in (draw for draws in target.draws for draw in draws):
            lender = objects[draw.reference_image, draw.reference_object]
            assert lender["split"] == own["split"] and lender["group"] != own["group"]
            assert not same_category or lender["category"] == own["category"]
            assert 1 / 4 <= lender["area"] / own["area"] <= 4 and lender["area"] >= 50
            assert draw.image == crowd / lender["image"] and draw.mask == crowd / lender["mask"] and not draw.simulated
            checked += 1
    assert checked > 4000


def test_every_object_that_may_lend_is_drawn_and_no_other(tmp_path):
    # p0 of scene a has an object; of twelve others, four are of its scene and stand between the eight that may lend
    groups = "a" + "abbacdeafgha"
    objects = pd.DataFrame(
        {
            "image_id": [f"p{number:02d}" for number in range(13)],
            "instance_id": "1",
            "category": "cup",
            "group": list(groups),
            "split": "train",
        }
    )
    objects["area"] = [200, *range(101, 113)]
    plan = plan_of(
        making.write_tables(tmp_path, objects), composites_per_object=3, max_per_object=3, filters={"attempts": 100}
    )
    drawn = Counter(draw.reference_image for draws in plan[0].draws for draw in draws)
    assert set(drawn) == {f"p{number:02d}" for number in range(1, 13) if groups[number] != "a"}
    # 300 uniform draws of eight: 37.5 each, standard deviation 5.7
    assert all(abs(count - 37.5) < 4 * 5.7 for count in drawn.values())


def test_methods_are_drawn_uniformly(crowd):
    counts = Counter(draw.transfer for target in plan_of(crowd) for draws in target.draws for draw in draws)
    total = sum(counts.values())
    assert set(counts) == set(METHODS)
    for count in counts.values():
        assert abs(count - total / 4) < 3 * np.sqrt(total * 0.25 * 0.75)


@pytest.mark.parametrize("mean, most", [(1.11, 3), (1.7, 2), (1, 1), (3, 3)])
def test_composites_per_object_have_the_mean_and_the_maximum(crowd, mean, most):
    counts = [len(target.draws) for target in plan_of(crowd, composites_per_object=mean, max_per_object=most)]
    share = mean - int(mean)
    assert np.mean(counts) == pytest.approx(mean, abs=3 * np.sqrt(share * (1 - share) / len(counts)) + 1e-9)
    assert max(counts) <= most and min(counts) >= 1


def test_every_draw_has_the_seed_of_its_place(crowd):
    for target in plan_of(crowd, seed=11)[:50]:
        for k, draws in enumerate(target.draws, start=1):
            assert [draw.attempt for draw in draws] == list(range(1, 9))
            for draw in draws:
                assert draw.seed == seeds.derive(11, "HCOCO", target.real, target.object, k, draw.attempt)


def test_a_plan_is_the_same_in_any_order(crowd):
    forwards, backwards = plan_of(crowd), plan_of(crowd)
    last_first = [backwards[index] for index in range(199, -1, -1)]
    assert [forwards[index] for index in range(200)] == last_first[::-1] == forwards[:200]
    assert plan_of(crowd, seed=4)[:50] != forwards[:50] and plan_of(crowd, name="HFlickr")[0].draws != forwards[0].draws
    with pytest.raises(IndexError):
        forwards[len(forwards)]


def test_another_source_lends_without_regard_to_scenes(crowd, tmp_path):
    objects = pd.DataFrame(
        {
            "image_id": ["q1"],
            "instance_id": ["7"],
            "category": ["cup"],
            "group": ["g0"],
            "split": ["test"],
            "area": [400],
        }
    )
    target = plan_of(making.write_tables(tmp_path, objects), references=crowd)[0]
    lenders = known(crowd).loc[[(draw.reference_image, draw.reference_object) for draw in target.draws[0]]]
    assert (lenders["split"] == "test").all() and (lenders["category"] == "cup").all()


def test_the_only_object_of_a_category_has_no_reference(tmp_path):
    objects = pd.DataFrame({
        "image_id": ["p1", "p2", "p3"], "instance_id": "1", "category": ["lamp", "cup", "cup"], "split": "train", "area": [300, 300, 300],
    })  # fmt: skip
    source = making.write_tables(tmp_path, objects)
    draws = {target.image_id: target.draws for target in plan_of(source, composites_per_object=2, max_per_object=2)}
    assert draws["p1"] == ((), ()) and all(len(draw) == 8 for draw in draws["p2"])
    other = {
        target.image_id: target.draws
        for target in plan_of(source, same_category=False, composites_per_object=2, max_per_object=2)
    }
    assert len(other["p1"]) == 2 and all(other["p1"])


def test_objects_that_the_filters_refuse_are_named(crowd):
    plan = plan_of(crowd, filters={"foreground_ratio": {"low": 0.02, "high": 0.5}, "min_pixels": 300})
    frame = tables.read(crowd / "instances.parquet").set_index(["image_id", "instance_id"])
    refused = {(row["source_image"], row["object"]): (row["rule"], row["value"]) for row in plan.refused()}
    assert len(refused) + len(plan) == len(frame)
    for key, row in frame.iterrows():
        expected = None
        if not 0.02 <= row["area"] / 10000 <= 0.5:
            expected = ("foreground ratio", row["area"] / 10000)
        elif row["area"] < 300:
            expected = ("too few pixels", row["area"])
        assert refused.get(key) == expected


# ---- simulated renditions


@pytest.mark.parametrize("recipe, transfer", [("renditions", RETOUCH), ("day2night", RELIGHT)])
def test_plain_photographs_get_simulated_renditions_of_their_largest_object(crowd, recipe, transfer):
    plan = plan_of(crowd, recipe=recipe, prefix="a", composites_per_object=2, max_per_object=5)
    objects = known(crowd)
    usable = objects[objects["area"].between(100, 8000)].reset_index()
    assert [target.image_id for target in plan] == sorted(set(usable["image_id"]))
    for target in plan[:100]:
        own = usable[usable["image_id"] == target.image_id]
        assert target.foreground_ratio == own["area"].max() / 10000
        assert (target.real, target.object, len(target.draws)) == (f"a{target.image_id}", "1", 2)
        for draw in (draw for draws in target.draws for draw in draws):
            assert draw.simulated and draw.transfer == transfer and draw.image is None and draw.reference_image == ""


def test_a_photograph_whose_largest_object_is_refused_uses_the_next(tmp_path):
    objects = pd.DataFrame(
        {"image_id": "p1", "instance_id": ["1", "2", "3"], "category": "", "split": "train", "area": [9500, 700, 800]}
    )
    plan = plan_of(making.write_tables(tmp_path, objects), recipe="renditions")
    assert [(target.object, target.foreground_ratio) for target in plan] == [("1", 0.08)]
    assert [(row["object"], row["rule"]) for row in plan.refused()] == [("1", "foreground ratio")]


# ---- real renditions


def test_one_rendition_is_real_and_the_others_lend_in_iharmony4s_order(fivek):
    plan = plan_of(fivek, "HAdobe5k", recipe="renditions", prefix="a", composites_per_object=5, max_per_object=5)
    assert [target.real for target in plan] == [
        f"a{number:04d}" for number in range(1, 9)
    ]  # named as in iHarmony4, no second a
    order = ["input", "expertA", "expertB", "expertC", "expertD", "expertE"]
    for target in plan:
        own = target.image_id.removeprefix(f"{target.real}-")
        lenders = [draws[0].reference_image.removeprefix(f"{target.real}-") for draws in target.draws]
        assert lenders == [rendition for rendition in order if rendition != own]
        assert all(
            len(draws) == 1 and draws[0].transfer == RENDITION and not draws[0].simulated for draws in target.draws
        )
    assert len({target.image_id[6:] for target in plan}) > 2, "the real rendition is drawn, not always the same"


def test_fewer_renditions_than_there_are_are_drawn_with_the_rest_in_reserve(fivek):
    plan = plan_of(fivek, "HAdobe5k", recipe="renditions", prefix="a", composites_per_object=2, max_per_object=5)
    firsts = set()
    for target in plan:
        lenders = [draw.reference_image for draws in target.draws for draw in draws]
        assert len(target.draws) == 2 and len(lenders) == len(set(lenders)) == 5 and target.image_id not in lenders
        firsts.add(target.draws[0][0].reference_image[6:])
    assert len(firsts) > 2


def test_every_frame_with_a_mask_takes_other_moments_of_its_camera(timelapse):
    plan = plan_of(timelapse, "Hday2night", recipe="day2night", prefix="d", composites_per_object=3, max_per_object=26)
    cameras = ("7", "90", "91", "1048", "22")
    assert sorted(target.real for target in plan) == sorted(
        f"d{camera}-{frame}" for camera in cameras for frame in ("0900", "1200")
    )
    firsts = set()
    for target in plan:
        lenders = [draw.reference_image for draws in target.draws for draw in draws]
        assert len(target.draws) == 3 and len(lenders) == len(set(lenders)) == 4
        assert {moment.rpartition("-")[0] for moment in lenders} == {
            target.real[1:].rpartition("-")[0]
        } and target.image_id not in lenders
        assert {draw.transfer for draws in target.draws for draw in draws} == {MOMENT}
        firsts.add(target.draws[0][0].reference_image[-4:])
    assert len(firsts) > 2


def test_more_composites_than_other_moments_ask_for_no_more_than_there_are(timelapse):
    plan = plan_of(timelapse, "Hday2night", recipe="day2night", prefix="d", composites_per_object=26, max_per_object=26)
    assert all(len(target.draws) == 4 and all(len(draws) == 1 for draws in target.draws) for target in plan)


def test_a_lone_rendition_has_no_reference(tmp_path):
    source = making.fivek_source(tmp_path, photographs=3)
    photographs, instances = (tables.read(source / f"{name}.parquet") for name in ("photographs", "instances"))
    kept = photographs["image_id"].isin(["a0001-input"]) | photographs["image_id"].str.startswith("a0002")
    tables.write(source / "photographs.parquet", photographs[kept])
    tables.write(source / "instances.parquet", instances[instances["image_id"].isin(photographs["image_id"][kept])])
    plan = plan_of(source, recipe="renditions", prefix="a", composites_per_object=5, max_per_object=5)
    assert [(target.real, len(target.draws), target.draws[0] == ()) for target in plan] == [
        ("a0001", 1, True),
        ("a0002", 5, False),
    ]
