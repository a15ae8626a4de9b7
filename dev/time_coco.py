"""How long a look into a COCO file takes the first time: CPU seconds, by orjson and by Python's json.

    python dev/time_coco.py

The two ways take turns on one made-up file; the medians are printed. It has as many images and
annotations as train2017 of COCO, with polygons of 6 to 40 points.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from paca_mm.datasets.coco import look_into


def make(path: str, images: int, annotations: int) -> None:
    draw = random.Random(0)

    def annotation(number: int) -> dict:
        x, y = draw.uniform(0, 400), draw.uniform(0, 300)
        w, h = draw.uniform(5, 200), draw.uniform(5, 150)
        points = draw.randint(6, 40)
        polygon = [
            round(start + draw.random() * length, 2)
            for _ in range(points)
            for start, length in ((x, w), (y, h))
        ]
        return dict(
            id=number,
            image_id=draw.randrange(images),
            category_id=draw.randint(1, 80),
            bbox=[round(v, 2) for v in (x, y, w, h)],
            area=round(w * h, 2),
            iscrowd=0,
            segmentation=[polygon],
        )

    content = dict(
        images=[
            dict(id=i, file_name=f'{i:012d}.jpg', width=640, height=480) for i in range(images)
        ],
        categories=[dict(id=i, name=f'class {i}') for i in range(1, 81)],
        annotations=[annotation(i) for i in range(annotations)],
    )
    with open(path, 'w') as file:
        file.write(json.dumps(content))  # in one piece: by C, not by Python


@contextmanager
def without_orjson(left_out: bool) -> Iterator[None]:
    kept = sys.modules.get('orjson')
    if left_out:
        sys.modules['orjson'] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules.pop('orjson', None)
        if kept is not None:
            sys.modules['orjson'] = kept


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--images', type=int, default=118_287)
    parser.add_argument('--annotations', type=int, default=860_001)
    parser.add_argument('--rounds', type=int, default=3)
    args = parser.parse_args()
    import orjson  # noqa: F401  (both ways can be measured)

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'instances.json')
        make(path, args.images, args.annotations)
        took: dict[str, list[float]] = {'orjson': [], 'json': []}
        for number in range(args.rounds):
            for name, seconds in took.items():
                os.environ['XDG_CACHE_HOME'] = os.path.join(folder, f'{name}_{number}')
                with without_orjson(name == 'json'):
                    began = time.process_time()
                    found = look_into(path)
                    seconds.append(time.process_time() - began)
        print(
            f'{os.path.getsize(path) / 1e6:.0f} MB, {len(found.images)} images, {found.annotations} '
            f'annotations, {args.rounds} rounds, CPU seconds (medians):'
        )
        print('  ' + ', '.join(f'{n} {statistics.median(s):.1f}' for n, s in took.items()))


if __name__ == '__main__':
    main()
