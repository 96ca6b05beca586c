import torch
from skimage.color import rgb2gray
from skimage.feature import canny

from models.layers.edges import canny_edges, gray


def pictures():
    generator = torch.Generator().manual_seed(0)
    image = torch.full((2, 3, 32, 32), 0.2)
    image[0, :, 4:20, 6:24] = torch.rand(3, 1, 1, generator=generator)
    image[1, :, 10:28, 2:14] = 0.9
    return image


def test_gray_and_edges_are_scikit_images():
    image = pictures()
    for index, picture in enumerate(image):
        expected = rgb2gray(picture.permute(1, 2, 0).numpy())
        torch.testing.assert_close(gray(image)[index, 0], torch.from_numpy(expected))
        edges = canny_edges(torch.from_numpy(expected)[None, None], 1.5)[0, 0]
        assert edges.sum() > 20
        assert torch.equal(edges, torch.from_numpy(canny(expected, 1.5)).float())


def test_a_hole_makes_no_edges():
    flat = torch.full((1, 1, 32, 32), 0.7)
    hole = torch.zeros(1, 1, 32, 32)
    hole[..., 8:20, 8:20] = 1
    assert canny_edges(flat * (1 - hole), 1.5).sum() > 0
    assert canny_edges(flat * (1 - hole), 1.5, hole).sum() == 0


def test_no_gradient_flows_through_an_edge_map():
    luminance = gray(pictures()).requires_grad_()
    assert not canny_edges(luminance, 2.0).requires_grad
