"""Which checkpoint a run is resumed from, by what stands in its folder and when it was written."""

import os

import pytest
import torch

from paca_mm.checkpoint.latest import find_latest_checkpoint


def write(folder, named, **written):
    """Checkpoints of the epochs, and ``last_checkpoint``, each at a time of its own (seconds)."""
    (folder / 'last_checkpoint').write_text(str(folder / named))
    for name, seconds in written.items():
        file = folder / (name if name == 'last_checkpoint' else f'{name}.pth')
        if name != 'last_checkpoint':
            torch.save({'state_dict': {'a': torch.zeros(1)}, 'meta': {}}, file)
        os.utime(file, (seconds, seconds))


@pytest.mark.parametrize(
    ('named', 'written', 'expected'),
    [
        # As every run leaves them.
        ('epoch_2.pth', dict(epoch_1=10, epoch_2=20, last_checkpoint=21), 'epoch_2.pth'),
        # Killed after the checkpoint, before the file that names it.
        ('epoch_1.pth', dict(epoch_1=10, last_checkpoint=11, epoch_2=20), 'epoch_2.pth'),
        ('iter_9.pth', dict(iter_9=10, last_checkpoint=11, iter_10=20), 'iter_10.pth'),
        # A new run in the folder of a longer one: what is left of that is older.
        ('epoch_1.pth', dict(epoch_24=5, epoch_1=10, last_checkpoint=11), 'epoch_1.pth'),
        # A folder that was copied, whose times mean nothing.
        ('epoch_2.pth', dict(last_checkpoint=10, epoch_2=20, epoch_1=30), 'epoch_2.pth'),
    ],
)
def test_the_newest_complete_checkpoint_is_taken(tmp_path, named, written, expected):
    write(tmp_path, named, **written)
    assert find_latest_checkpoint(tmp_path).name == expected
