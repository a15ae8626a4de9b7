"""The page of a survey: one file, which needs no network."""

import base64
import io
from collections.abc import Iterator
from html import escape

from PIL import Image, ImageDraw, ImageOps

from paca_mm.datasets.faults import Fault, Offender

from .survey import Survey, Surveyed

#: The longer side of a thumbnail, in pixels.
_THUMBNAIL = 240

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --bad: #c62828; --odd: #b26a00; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; overflow-wrap: anywhere; }
.fault { border-left: .3rem solid var(--odd); margin: 1rem 0; padding: .2rem 0 .2rem 1rem; }
.fault.error { border-color: var(--bad); }
.fault p { margin: .3rem 0; overflow-wrap: anywhere; } .fault b { font-weight: 600; }
.cure { background: var(--soft); border-radius: .3rem; padding: .3rem .6rem; }
.offenders { display: flex; flex-wrap: wrap; gap: .8rem; margin: .6rem 0 0; padding: 0; }
figure { margin: 0; max-width: 15rem; } figure img { max-width: 100%; display: block; }
figcaption { font-size: .8rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; max-width: 42rem; }
td { padding: .1rem .6rem .1rem 0; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
td.bar { width: 50%; } td.bar div { background: #4c78a8; height: .8rem; border-radius: .15rem; }
.facts { display: flex; flex-wrap: wrap; gap: 1.5rem; padding: 0; list-style: none; }
.facts b { display: block; font-size: 1.3rem; }
"""


def page(survey: Survey) -> str:
    """A survey as HTML: faults with their first offenders, classes and box sizes as bars."""
    faults = survey.all_faults()
    errors = sum(fault.fatal for _, fault in faults)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<title>Data of {escape(survey.config)}</title><style>{_STYLE}</style></head><body>',
        f'<h1>Data of {escape(survey.config)}</h1>',
        f'<p>{_number(errors, "error")}, {_number(len(faults) - errors, "warning")}. '
        'An error ends a run or makes it wrong; of a warning the host leaves the offenders out.</p>',
    ]
    for dataset in survey.datasets:
        parts += _dataset(dataset)
    if survey.faults:
        parts.append('<h2>Between the datasets</h2>')
        parts += [_fault(fault) for fault in survey.faults]
    parts.append('</body></html>')
    return '\n'.join(parts)


def _number(count: int, noun: str) -> str:
    return f'{count} {noun}{"" if count == 1 else "s"}'


def _dataset(dataset: Surveyed) -> Iterator[str]:
    yield f'<h2>{escape(dataset.place)} <small>({escape(dataset.type)})</small></h2>'
    facts = {'images': dataset.images, 'empty images': dataset.empty}
    facts |= {'classes': len(dataset.classes)} if dataset.classes else {}
    yield '<ul class="facts">'
    yield from (f'<li><b>{value}</b> {name}</li>' for name, value in facts.items())
    yield '</ul>'
    yield from map(_fault, dataset.faults)
    if not dataset.faults:
        yield '<p>No faults.</p>'
    if dataset.counts:
        yield f'<h3>Classes, by {dataset.unit}</h3>'
        named = {dataset.class_name(k): n for k, n in dataset.counts.items()}
        yield _bars(dict(sorted(named.items(), key=lambda pair: -pair[1])))
    if sizes := dataset.box_sizes():
        yield '<h3>Sizes of the boxes</h3>'
        yield _bars(
            {
                'small (below 32 x 32 pixels)': sizes['small'],
                'medium': sizes['medium'],
                'large (from 96 x 96)': sizes['large'],
            }
        )
        yield (
            f'<p>Sides from {sizes["side_5_percent"]} to {sizes["side_95_percent"]} pixels '
            f'(5 to 95 %), median {sizes["side_median"]}.</p>'
        )


def _bars(counts: dict[str, int]) -> str:
    most = max(counts.values(), default=0) or 1
    rows = [
        f'<tr><td>{escape(name)}</td><td class="n">{count}</td>'
        f'<td class="bar"><div style="width:{100 * count / most:.1f}%"></div></td></tr>'
        for name, count in counts.items()
    ]
    return f'<table>{"".join(rows)}</table>'


def _fault(fault: Fault) -> str:
    figures = ''.join(map(_figure, fault.first))
    more = fault.count - len(fault.first)
    return (
        f'<div class="fault {fault.weight}">'
        f'<p><b>{fault.weight}: {escape(fault.kind)}</b> ({fault.count})</p>'
        f'<p>{escape(fault.where)} {escape(fault.what)}</p>'
        f'<p class="cure">To fix it: {escape(fault.cure)}</p>'
        f'<div class="offenders">{figures}</div>'
        + (f'<p>... and {more} more.</p>' if figures and more > 0 else '')
        + '</div>'
    )


def _figure(offender: Offender) -> str:
    picture = _thumbnail(offender)
    image = f'<img src="{picture}" alt="{escape(offender.words, quote=True)}">' if picture else ''
    return f'<figure>{image}<figcaption>{escape(offender.words)}</figcaption></figure>'


def _thumbnail(offender: Offender) -> str | None:
    """A small image with its box, as a data URL; None if it cannot be read."""
    if offender.image is None:
        return None
    try:
        with Image.open(offender.image) as file:
            image = ImageOps.exif_transpose(file).convert('RGB')
    except Exception:
        return None  # that may well be its fault
    scale = _THUMBNAIL / max(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    image = image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
    if offender.box:
        left, top, width, height = (value * scale for value in offender.box)
        corners = sorted((left, left + width)), sorted((top, top + height))
        ImageDraw.Draw(image).rectangle(
            (corners[0][0], corners[1][0], corners[0][1], corners[1][1]), outline='red', width=2
        )
    content = io.BytesIO()
    image.save(content, 'JPEG', quality=80)
    return f'data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}'
