"""Faults of the files of a dataset, whatever the task."""

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

from paca_mm.errors import some_of

from .faults import FIRST, Fault, Offender, by_kind
from .glance import Glance
from .labels import Labelling


def absent_among(files: Iterable[str]) -> list[str]:
    """Those that are not there. A folder is listed once: asking for each file takes longer."""
    listed: dict[str, set[str]] = {}
    absent = []
    for file in files:
        folder, name = os.path.split(file)
        if folder not in listed:
            listed[folder] = (
                set(os.listdir(folder or '.')) if os.path.isdir(folder or '.') else set()
            )
        if name not in listed[folder]:
            absent.append(file)
    return absent


def check_present(
    files: Sequence[str], where: str, noun: str = 'images'
) -> Generator[Fault, None, set[str]]:
    """The fault of files that are named and not there.

    Args:
        files: All that are named.
        where: What names them: a file, or the folder that they lie in.
        noun: What they are.

    Returns:
        Those that are not there, to ``yield from``.
    """
    if absent := absent_among(files):
        folder = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in absent])
        above, last = os.path.split(folder)
        cure = 'fetch them, or remove what names them.'
        if os.path.isfile(os.path.join(above, os.path.basename(absent[0]))):
            cure = f'the names begin with {last!r} themselves: leave it out of data_prefix.'
        yield Fault(
            f'absent-{noun}',
            where,
            f'names {noun} that are not there: {len(absent)} of {len(files)}, looked for in {folder}.',
            cure,
            count=len(absent),
            first=tuple(Offender(os.path.relpath(file, folder)) for file in absent[:FIRST]),
        )
    return {*absent}


def check_readable(
    files: Sequence[str], where: str, loader: str | None, glance: Glance
) -> Iterator[Fault]:
    """The fault of images that cannot be read.

    Args:
        files: All images.
        where: What they are images of.
        loader: What decodes them; see :func:`~paca_mm.datasets.images.loader_of`.
        glance: Which of them are looked at, and how.
    """
    looked_at = glance.some(files)
    faults = zip(looked_at, glance.faults(looked_at, loader), strict=True)
    broken = [Offender(f'{file} {fault}') for file, fault in faults if fault]
    if broken:
        yield Fault(
            'unreadable-image',
            f'images of {where}',
            f'cannot be read: {len(broken)} of the {len(looked_at)} that were looked at.',
            'fetch these files again, or remove them and their annotations.',
            count=len(broken),
            first=tuple(broken[:FIRST]),
        )


def check_sizes(
    stated: Mapping[str, tuple[int, int]], where: str, glance: Glance
) -> Iterator[Fault]:
    """The faults of images whose size is not the one that a file of annotations states.

    Args:
        stated: Width and height of every image.
        where: The file that states them.
        glance: Which of them are looked at.
    """
    looked_at = glance.some(stated)
    odd: list[Offender] = []
    turned: list[Offender] = []
    for path, size in zip(looked_at, glance.sizes(looked_at), strict=True):
        if size is None or stated[path] == (size.width, size.height):
            continue
        words = (
            f'{path}: {size.width} x {size.height}, stated {stated[path][0]} x {stated[path][1]}'
        )
        before_turn = size.turned and stated[path] == (size.height, size.width)
        (turned if before_turn else odd).append(Offender(words, path))
    if odd:
        yield Fault(
            'size-not-as-stated',
            where,
            f'states another size than {len(odd)} of the {len(looked_at)} images have that were '
            'looked at: their boxes are of another scale.',
            'the images that the annotations were made for, or annotations of these images.',
            len(odd),
            tuple(odd[:FIRST]),
        )
    if turned:
        yield Fault(
            'turned-by-exif',
            where,
            f'states the size of {len(turned)} of the {len(looked_at)} images before their EXIF tag '
            'turns them. They are turned when they are read: are their boxes too?',
            "nothing, if they are; otherwise color_type='color_ignore_orientation' in "
            'LoadImageFromFile.',
            len(turned),
            tuple(turned[:FIRST]),
            fatal=False,
        )


def check_depth(files: Sequence[str], where: str, glance: Glance) -> Iterator[Fault]:
    """The fault of images of 16 bits, for Pillow, which cuts every number at 255."""
    looked_at = glance.some(files)
    deep = [path for path, found in zip(looked_at, glance.deep(looked_at), strict=True) if found]
    if deep:
        yield Fault(
            'deep-image',
            f'images of {where}',
            f'have more than 8 bits a pixel: {len(deep)} of the {len(looked_at)} that were looked at. '
            'Pillow, which decodes them, makes all that is above 255 white.',
            "imdecode_backend='cv2' in LoadImageFromFile (it keeps the upper 8 bits), or convert them "
            'to 8 bits.',
            count=len(deep),
            first=tuple(Offender(path, path) for path in deep[:FIRST]),
        )


def check_masks(
    pairs: Sequence[tuple[str, str]], labelling: Labelling, glance: Glance, every_class: bool
) -> Iterator[Fault]:
    """Look at images and their masks. Masks in a format that Pillow does not read are passed over.

    Args:
        pairs: Files of the images and of their masks.
        labelling: What the numbers in the masks mean.
        glance: How many of them are looked at.
        every_class: Whether all classes should occur, as they should in data to train on.

    Yields:
        Masks that are torn, not of one channel or not of their image's size; numbers that are no
        class; numbers that show that ``reduce_zero_label`` is wrong.
    """
    looked_at = glance.some_masks(pairs)
    masks = glance.masks(looked_at)
    found = {n for mask in masks for n in mask.counts}
    faults = [mask.fault for mask in masks if mask.fault]
    for (_, file), mask in zip(looked_at, masks, strict=True):
        if wrong := sorted(n for n in mask.counts if not labelling.fits(n)):
            faults.append(labelling.no_class(file, wrong, found))
    yield from by_kind(faults)
    doubt = every_class and _doubt(os.path.dirname(pairs[0][1]), labelling, sorted(found))
    if doubt and len(looked_at) < len(pairs):
        masks = glance.masks(pairs)  # a rare class may dispel it
        found = {n for mask in masks for n in mask.counts}
        doubt = _doubt(os.path.dirname(pairs[0][1]), labelling, sorted(found))
    if doubt and not faults:
        yield doubt


def _doubt(folder: str, labelling: Labelling, found: Sequence[int]) -> Fault | None:
    """What is strange about the numbers in all masks of a folder, each of which fits."""
    count = labelling.num_classes
    # All numbers that there would be if 0 were a class, and not the last one that there should be.
    if labelling.reduce_zero_label and {*found} - {255} == {*range(count)}:
        return Fault(
            'reduce-zero-label',
            f'the masks in {folder}',
            f'hold the numbers 0 to {count - 1}, one for '
            f'each of the {count} classes, but reduce_zero_label=True takes 0 for "no label" and 1 for '
            'the first class: every class would be learned under the name of the one before it.',
            "reduce_zero_label=False in each dataset, with type='BaseSegDataset' if its "
            'type does not take that.',
        )
    labels = {labelling.label_of(number) for number in found}
    classes = labels - {255, labelling.ignore_index}
    if len(classes) < 2 and labels != classes:
        none = [n for n in found if labelling.label_of(n) not in classes]
        return Fault(
            'one-class',
            f'the masks in {folder}',
            f'hold the numbers {some_of(found)} and no others, of which '
            f'{some_of(none)} means "no label" (reduce_zero_label={labelling.reduce_zero_label}): that '
            f'leaves {len(classes)} of the {count} classes, and nothing to tell apart.',
            'number the classes from 0 on. In black and white masks, 1 instead of 255.',
        )
    return None
