"""Drawings: colours by class, letters that scale, small images enlarged, nothing lost on odd images."""

import numpy as np
import pytest

from paca_mm.engine import drawing
from paca_mm.engine.drawing import Look, beside, class_map, class_names, instances, lines, made_up

GREY = 100


def grey(height, width):
    return np.full((height, width, 3), GREY, np.uint8)


def covered(drawn, colour, share=drawing.COVER):
    """Where a mask of a colour lies over the grey."""
    expected = np.array(colour) * share + GREY * (1 - share)
    return (np.abs(drawn.astype(int) - expected) <= 3).all(-1)


@pytest.mark.parametrize(
    ('size', 'factor'),
    [((96, 96), 7), ((128, 128), 5), ((480, 640), 1), ((20, 300), 2), ((1, 1), 640)],
)
def test_a_small_image_is_enlarged_before_it_is_drawn(size, factor):
    labels = np.zeros(size, int)
    drawn = class_map(grey(*size), labels, Look())
    assert drawn.shape == (size[0] * factor, size[1] * factor, 3)


def test_names_leave_a_small_object_on_a_small_image_free():
    """A tenth of the image each: at the image's own size the name would cover it twice."""
    boxes = np.array([[10.0, 60, 22, 72], [60, 60, 72, 72], [40, 0, 52, 12]])
    masks = np.zeros((3, 96, 96), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    look = Look(('traffic light',))
    drawn = instances(grey(96, 96), boxes, [0, 0, 0], look, [0.9, 0.8, 0.7], masks)
    seen = covered(drawn, look.colour(0))
    for x1, y1, x2, y2 in (boxes * 7).astype(int):
        assert seen[y1:y2, x1:x2].mean() > 0.75


@pytest.mark.parametrize('size', [(480, 640), (3000, 3800)])
def test_letters_and_lines_grow_with_the_image(size):
    height, width = size
    box = np.array([[0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height]])
    drawn = instances(grey(*size), box, [0], Look(('thing',), ((255, 0, 0),)), [0.5])
    red = (drawn == (255, 0, 0)).all(-1)
    rows = red[:, int(0.3 * width)].nonzero()[0]
    above = rows[rows < 0.26 * height]
    assert 0.015 < len(above) / (height * width) ** 0.5 < 0.04  # the name's ground
    line = red[height // 2, : width // 2].sum()
    assert line >= 2
    assert 0.002 < line / (height * width) ** 0.5 < 0.006


def test_a_class_has_one_colour_in_masks_and_boxes():
    boxes = np.array([[10.0, 100, 200, 300], [300, 100, 500, 300], [300, 320, 500, 460]])
    masks = np.zeros((3, 480, 640), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    look = Look(('a', 'b'), ((250, 10, 10), (10, 10, 250)))
    drawn = instances(grey(480, 640), boxes, [0, 0, 1], look, masks=masks)
    for (x1, y1, x2, y2), colour in zip(
        boxes.astype(int), [look.palette[i] for i in (0, 0, 1)], strict=True
    ):
        assert covered(drawn, colour)[y1 + 5 : y2 - 5, x1 + 5 : x2 - 5].mean() > 0.98
        assert (drawn[(y1 + y2) // 2, x1] == colour).all()


def test_a_map_has_its_classes_colours_and_no_class_none():
    labels = np.full((480, 640), 255)
    labels[:, :320] = 1
    drawn = class_map(grey(480, 640), labels, Look(('a', 'b'), ((1, 2, 3), (200, 0, 0))))
    assert (drawn[:, 320:] == GREY).all()
    assert covered(drawn, (200, 0, 0))[:, :320].mean() > 0.95  # but for the name
    assert (drawn == (200, 0, 0)).all(-1).any()  # which is there


@pytest.mark.parametrize('size', [(1, 1), (31, 2000), (2000, 31), (7, 5)])
def test_odd_images_and_boxes_are_drawn(size):
    height, width = size
    boxes = np.array([[0.0, 0, width, height], [-5, -5, 2 * width, 1], [1, 1, 1, 1]])
    masks = np.zeros((3, *size), bool)
    masks[0] = True
    drawn = instances(
        grey(*size), boxes, [0, 9, 100], Look(('a name longer than that',)), [1, 0.5, 0], masks
    )
    assert drawn.dtype == np.uint8
    assert not (drawn == GREY).all()
    none = instances(grey(*size), np.zeros((0, 4)), [], Look(), [], np.zeros((0, *size), bool))
    assert (none == GREY).all()


def test_words_stand_below_an_image_and_are_cut_where_it_ends():
    drawn = lines(grey(320, 640), ['short', 'long ' * 100])
    assert (drawn[:320] == GREY).all()
    below = drawn[320:]
    assert below.shape[0] > 2 * drawing.LEAST_LETTERS
    assert (below[:, -3:] == 0).all()
    assert (below > 200).any()


def test_two_drawings_side_by_side():
    both = beside(grey(10, 20), grey(14, 20))
    assert both.shape == (14, 42, 3)
    assert (both[:, 20:22] == 255).all()


def test_names_come_in_any_form(tmp_path):
    file = tmp_path / 'names.txt'
    file.write_text('traffic light\n\nred box\n')
    assert class_names(str(file)) == ('traffic light', 'red box')
    assert class_names('star') == ('star',)
    assert class_names(['a', 'b']) == ('a', 'b')
    assert class_names(None) == ()


@pytest.mark.parametrize(
    'palette', [None, 'random', 'coco', [], [1, 2, 3], [[1, 2]], [['a', 'b', 'c']]]
)
def test_what_is_no_palette_gives_made_up_colours(palette):
    look = Look.of(dict(classes=('a', 'b'), palette=palette))
    assert look.colour(1) == made_up(1)


def test_a_palette_that_is_too_short_goes_on_with_made_up_colours():
    look = Look.of(dict(classes=('a',), palette=[(1, 2, 3)]))
    assert (look.name(0), look.colour(0)) == ('a', (1, 2, 3))
    assert (look.name(7), look.colour(7)) == ('7', made_up(7))


def test_made_up_colours_can_be_told_apart():
    colours = np.array([made_up(i) for i in range(12)])
    apart = np.abs(colours[:, None] - colours[None]).sum(-1) + 1000 * np.eye(12, dtype=int)
    assert apart.min() > 60
