import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline import seeds

PART = st.one_of(st.integers(), st.text(max_size=8), st.booleans(), st.none(), st.floats(allow_nan=False))


def test_seeds_are_the_same_everywhere():
    # hashlib.blake2b(repr(parts).encode(), digest_size=8), little-endian, shifted right once; on CPython 3.11
    assert seeds.derive(20, "HCOCO", "c12", 3) == 291254512640225430
    assert seeds.derive() == 2847183694713211083


@given(st.lists(PART, max_size=5))
def test_a_seed_is_a_nonnegative_63_bit_number_that_belongs_to_its_parts(parts):
    seed = seeds.derive(*parts)
    assert 0 <= seed < 2**63 and seed == seeds.derive(*parts)
    assert 0 <= seeds.share(*parts) < 1


def test_types_order_and_grouping_count():
    different = [
        (1, "a"),
        ("1", "a"),
        ("a", 1),
        (1.0, "a"),
        ((1, "a"),),
        (1, "a", None),
        ("1a",),
        (True, "a"),
        ("1", "a "),
    ]
    assert len({seeds.derive(*parts) for parts in different}) == len(different)


def test_draws_of_one_name_repeat_and_those_of_others_do_not():
    assert np.array_equal(seeds.rng(1, "x").random(5), seeds.rng(1, "x").random(5))
    assert not np.array_equal(seeds.rng(1, "x").random(5), seeds.rng(2, "x").random(5))


def test_shares_are_spread_evenly():
    shares = np.array([seeds.share("even", number) for number in range(4000)])
    counts, _ = np.histogram(shares, 10, (0, 1))
    assert counts.min() > 330 and counts.max() < 470  # 400 expected, standard deviation 19
