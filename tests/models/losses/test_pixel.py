import torch

from models.losses.pixel import hole_and_valid_l1, total_variation


def test_hole_and_valid_divide_by_all_elements():
    prediction, real = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.zeros(1, 1, 2, 2)
    hole = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    inside, outside = hole_and_valid_l1(prediction, real, hole)
    assert inside.item() == 5 / 4 and outside.item() == 5 / 4
    inside, outside = hole_and_valid_l1(prediction, real, torch.tensor([[[[0.0, 0.0], [1.0, 0.0]]]]))
    assert inside.item() == 3 / 4 and outside.item() == 7 / 4


def test_total_variation_by_hand():
    image = torch.tensor([[[[0.0, 1.0, 3.0], [0.0, 0.0, 0.0]]]])
    # horizontal |1| |2| |0| |0| over 4, vertical |0| |1| |3| over 3
    torch.testing.assert_close(total_variation(image), torch.tensor(3 / 4 + 4 / 3))
    region = torch.tensor([[[[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]]])
    torch.testing.assert_close(total_variation(image, region), torch.tensor(2 / 4 + 3 / 3))
