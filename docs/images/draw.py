"""Draw method.svg and architecture.svg beside this script: ``python docs/images/draw.py``."""

from html import escape
from pathlib import Path

INK, SOFT, PAPER, LINE = '#1f2933', '#52606d', '#ffffff', '#9aa5b1'
BLUE, ORANGE, GREEN, RED, PALE = '#2f6db3', '#d9822b', '#3a8f5c', '#c23b4a', '#eef2f6'


class Drawing:
    """An SVG of a few shapes, on paper of its own, so that it reads on dark pages too."""

    def __init__(self, width, height, title):
        self.width, self.height, self.title = width, height, title
        self.parts = []

    def box(self, x, y, w, h, fill=PALE, stroke=LINE, radius=6, dash=''):
        dash = f' stroke-dasharray="{dash}"' if dash else ''
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="{radius}" fill="{fill}" '
            f'stroke="{stroke}" stroke-width="1.5"{dash}/>'
        )

    def text(self, x, y, words, size=17, fill=INK, anchor='middle', weight='normal'):
        for number, line in enumerate(words.split('\n')):
            self.parts.append(
                f'<text x="{x}" y="{y + number * size * 1.25:.1f}" font-size="{size}" fill="{fill}" '
                f'text-anchor="{anchor}" font-weight="{weight}">{escape(line)}</text>'
            )

    def arrow(self, *points, stroke=SOFT):
        path = ' '.join(f'{x},{y}' for x, y in points)
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="2.5" '
            'marker-end="url(#head)"/>'
        )

    def grid(self, x, y, side, count, colours):
        """Square cells; ``colours`` gives (fill, opacity) of column and row."""
        cell = side / count
        for row in range(count):
            for column in range(count):
                fill, opacity = colours(column, row)
                self.parts.append(
                    f'<rect x="{x + column * cell:.1f}" y="{y + row * cell:.1f}" width="{cell:.1f}" '
                    f'height="{cell:.1f}" fill="{fill}" fill-opacity="{opacity:.2f}" stroke="#fff" '
                    'stroke-width="1"/>'
                )
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="none" stroke="{LINE}"/>'
        )

    def save(self, path):
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" role="img" aria-label="{self.title}" '
            'font-family="Helvetica, Arial, \'DejaVu Sans\', sans-serif">\n'
            f'<title>{self.title}</title>\n<defs><marker id="head" viewBox="0 0 10 10" refX="8" '
            'refY="5" markerWidth="6" markerHeight="6" orient="auto"><path d="M0 0L10 5L0 10z" '
            f'fill="{SOFT}"/></marker></defs>\n'
            f'<rect width="{self.width}" height="{self.height}" rx="10" fill="{PAPER}"/>\n'
        )
        path.write_text(head + '\n'.join(self.parts) + '\n</svg>\n')


def disc(column, row):
    return (column - 2.2) ** 2 + (row - 2.4) ** 2 < 4.2


def square(column, row):
    return 5 <= column <= 7 and 4 <= row <= 6


def image(column, row):
    """Eight by eight patches: a disc and a square on a quiet ground."""
    if disc(column, row):
        return BLUE, 0.9
    if square(column, row):
        return ORANGE, 0.9
    return GREEN, 0.25 + 0.08 * ((column * 3 + row * 5) % 3)


def cluster(inside, colour):
    return lambda column, row: (colour, 0.85 if inside(column, row) else 0.07)


def method(path):
    """Patch-to-cluster attention of one block."""
    d = Drawing(680, 500, 'Patch-to-cluster attention')
    d.grid(24, 60, 176, 8, image)
    d.text(112, 36, 'N patches', 20, weight='bold')
    d.text(112, 264, 'N grows with\nthe image', 17, SOFT)

    d.arrow((204, 104), (430, 104))
    d.text(318, 90, 'queries: every patch', 17)

    d.arrow((112, 312), (112, 352))
    d.box(16, 356, 192, 78)
    d.text(112, 388, 'clustering network', 16, weight='bold')
    d.text(112, 412, 'softmax over patches', 15, SOFT)
    d.arrow((210, 395), (238, 395))

    kinds = ((disc, BLUE), (square, ORANGE), (lambda c, r: not (disc(c, r) or square(c, r)), GREEN))
    for number, (inside, colour) in enumerate(kinds):
        d.grid(244 + number * 84, 356, 76, 8, cluster(inside, colour))
    d.text(370, 334, 'M = 100 clusters', 20, weight='bold')
    d.text(370, 458, 'each a weighted mean of patches;\nM does not grow', 17, SOFT)
    d.arrow((500, 395), (536, 395), (536, 282))
    d.text(548, 340, 'keys,\nvalues', 17, anchor='start')

    d.text(536, 36, 'attention', 20, weight='bold')
    d.box(436, 60, 200, 180, PAPER, LINE, 2, '6 5')
    d.box(436, 60, 62, 180, '#d8e6f5', BLUE, 2)
    d.text(467, 146, 'N \u00d7 M', 15, BLUE, weight='bold')
    d.text(567, 146, 'N \u00d7 N of a\nplain ViT', 17, SOFT)
    d.text(536, 268, 'cost: N · M, not N²', 17, weight='bold')
    d.save(path)


def architecture(path):
    """Where things are: what a user types, the machinery, the families."""
    d = Drawing(700, 660, 'How paca_mm is put together')

    def band(y, h, title, colour, rows):
        d.box(16, y, 668, h, PAPER, colour, 8)
        d.text(32, y + 27, title, 18, colour, 'start', 'bold')
        width = (668 - 32 - 12 * (len(rows) - 1)) / len(rows)
        for number, (name, what) in enumerate(rows):
            x = 32 + number * (width + 12)
            d.box(x, y + 40, width, h - 54, PALE)
            size = min(16, int(1.6 * width / len(name)))
            d.text(x + width / 2, y + 62, name, size, weight='bold')
            d.text(x + width / 2, y + 84, what, 14 if width > 120 else 13, SOFT)

    band(14, 128, 'what you type', INK, [
        ('configs/', 'cls, det, seg,\nrecipes'),
        ('paca-mm, tools/', 'train, test, infer,\nbench, doctor'),
        ("type='paca_mm.X'", 'in any config\nof a host'),
    ])  # fmt: skip
    d.arrow((350, 144), (350, 170))
    band(174, 148, 'machinery: names no model', BLUE, [
        ('engine/', 'checks, Runner,\ntasks/: det,\nseg, cls'),
        ('datasets/', 'embedded\nshapes, faults\nof files'),
        ('zoo/', 'published rows,\nmetafiles'),
        ('analysis/', 'MACs, speed,\nfrequencies'),
    ])  # fmt: skip
    d.arrow((350, 324), (350, 350))
    d.box(180, 354, 340, 58, '#fdf3e4', ORANGE, 8)
    d.text(350, 378, 'families.py', 17, weight='bold')
    d.text(350, 399, 'the one record by which all ask a family', 14, SOFT)
    d.arrow((350, 414), (350, 440))
    band(444, 122, 'families: models/<family>/', GREEN, [
        ('paca', 'backbone,\nhead'),
        ('rapidnet', 'backbone,\nhead'),
        ('vittm', 'backbone,\nhead'),
        ('castling', 'attention,\nhook'),
        ('attentive_norm', 'norms,\nexchange'),
    ])  # fmt: skip
    d.box(32, 582, 306, 60, PALE)
    d.text(185, 607, 'models/common/', 16, weight='bold')
    d.text(185, 628, 'what any backbone needs', 14, SOFT)
    d.box(362, 582, 306, 60, PALE)
    d.text(515, 607, 'checkpoint/', 16, weight='bold')
    d.text(515, 628, 'safe reading, names, report', 14, SOFT)
    d.save(path)


if __name__ == '__main__':
    here = Path(__file__).resolve().parent
    method(here / 'method.svg')
    architecture(here / 'architecture.svg')
