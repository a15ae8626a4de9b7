"""Write tests/data/state_dict_keys.txt: run it only when the state dict is meant to change."""

import hashlib
from pathlib import Path

from helpers.rows import ROWS
from paca_mm.models import PaCaViT

lines = []
for row, (kwargs, *_) in ROWS.items():
    state = PaCaViT(**kwargs).state_dict()
    listing = '\n'.join(f'{key} {tuple(value.shape)}' for key, value in sorted(state.items()))
    lines.append(f'{row} {hashlib.sha256(listing.encode()).hexdigest()}')
(Path(__file__).parents[1] / 'data' / 'state_dict_keys.txt').write_text('\n'.join(lines) + '\n')
