import pytest
from PIL import Image

from pipeline.data.sources import timelapse
from pipeline.errors import UserError


def picture(path, size=(9, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 255 if mode == "L" else (90, 90, 90)).save(path)


def make(folder, cameras=("90", "1048"), frames=("0600", "1200", "1800"), masked=("1200",)):
    for camera in cameras:
        for frame in frames:
            picture(folder / camera / f"{frame}.jpg")
        for frame in masked:
            picture(folder / "masks" / camera / f"{frame}.png", mode="L")
    return folder


def test_a_camera_is_a_group_and_frames_are_its_renditions(tmp_path):
    photographs, rejected = timelapse.read(make(tmp_path))
    assert rejected == [] and len(photographs) == 6
    assert {each.group for each in photographs} == {"90", "1048"}
    masked = [each for each in photographs if each.instances]
    assert [(each.image_id, each.rendition, each.split) for each in masked] == [
        ("1048-1200", "1200", None),
        ("90-1200", "1200", None),
    ]
    assert masked[0].instances[0].mask().shape == (6, 9)


def test_underscores_in_times_are_converted(tmp_path):
    photographs, _ = timelapse.read(make(tmp_path, ("00_9",), ("20120628_200951", "b"), ("20120628_200951",)))
    assert photographs[0].image_id == "00-9-20120628-200951" and photographs[0].instances


def test_what_does_not_belong_together_is_rejected(tmp_path):
    make(tmp_path, masked=("1200", "2400"))
    make(tmp_path, ("7",), ("0600",), ())
    picture(tmp_path / "masks" / "5" / "0600.png", mode="L")
    (tmp_path / "90" / "notes.txt").touch()
    photographs, rejected = timelapse.read(tmp_path)
    assert len(photographs) == 6
    assert [(row["file"], row["item"], row["reason"]) for row in rejected] == [
        ("masks/1048/2400.png", "file", "no frame of this name"),
        ("7/0600.jpg", "photograph 7-0600", "its camera has no other frame"),
        ("90/notes.txt", "file", "not a picture file that is read"),
        ("masks/90/2400.png", "file", "no frame of this name"),
        ("masks/5", "file", "no camera of this name"),
    ]


def test_a_mask_of_another_size_is_refused(tmp_path):
    make(tmp_path)
    picture(tmp_path / "masks" / "90" / "1200.png", (6, 9), "L")
    photographs, _ = timelapse.read(tmp_path)
    with pytest.raises(UserError, match="1200.png: the mask is 6x9, its image 9x6"):
        next(each for each in photographs if each.image_id == "90-1200").instances[0].mask()


def test_folders_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        timelapse.read(tmp_path / "nowhere")
    (tmp_path / "masks").mkdir()
    with pytest.raises(UserError, match="no camera: expected a folder of frames per camera"):
        timelapse.read(tmp_path)


def test_names_that_clash_are_named(tmp_path):
    make(tmp_path, ("a-b",), ("c", "d"), ())
    make(tmp_path, ("a",), ("b-c", "d"), ())
    with pytest.raises(UserError, match="duplicate image id a-b-c"):
        timelapse.read(tmp_path)
    make(tmp_path / "two", ("9",))
    picture(tmp_path / "two" / "masks" / "9" / "1200.bmp", mode="L")
    with pytest.raises(UserError, match="1200.bmp and 1200.png are both masks of 1200"):
        timelapse.read(tmp_path / "two")
