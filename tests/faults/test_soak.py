"""One training of ``make soak``: hurt three times, resumed, and the same at the end as undisturbed."""

import json
import shutil

import pytest
import torch

from dev.soak.cycle import Soak
from dev.soak.table import BEGIN, END, table, write_table
from dev.soak.training import Variant, differences, prepare

pytest.importorskip('mmpretrain')


@pytest.mark.slow
@pytest.mark.timeout(900)  # a busy machine
def test_a_training_that_is_hurt_ends_as_the_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare()
    variant = Variant(by_epoch=False, workers=0, poisoned=True)
    tried = Soak(tmp_path, seed=3, variants=[variant])
    kinds = ['killed_in_a_validation', 'terminated', 'page_zeroed']
    training = tried.cycle(variant, len(kinds), kinds)
    assert [name for name, _ in training.faults] == kinds
    assert tried.lost == {}, json.dumps(tried.trainings, indent=1)
    page = tmp_path / 'page.md'
    page.write_text(f'before\n{BEGIN}\nold\n{END}\nafter\n')
    write_table(page, table(tried, 1, None, 0))
    text = page.read_text()
    assert '| SIGTERM | the step that was reached is saved, exit code 143 | 1 | 1 | 0 |' in text
    assert '**1** ended with the files of the undisturbed one' in text
    assert text.startswith('before\n')
    assert text.endswith('\nafter\n')
    assert 'old' not in text


def test_what_differs_is_seen(tmp_path):
    """The comparison that everything rests on."""
    ours, theirs = tmp_path / 'ours', tmp_path / 'theirs'
    ours.mkdir()
    content = {
        'state_dict': {'w': torch.ones(3)},
        'optimizer': {'state': {0: {'step': torch.tensor(2.0)}}, 'param_groups': []},
        'message_hub': {'log_scalars': {}},
    }
    torch.save(content, ours / 'iter_4.pth')
    shutil.copytree(ours, theirs)
    assert differences(ours, theirs) == []
    content['optimizer']['state'][0]['step'] += 1
    torch.save(content, ours / 'iter_4.pth')
    assert differences(ours, theirs) == ['iter_4.pth: optimizer differs']
    (ours / '.iter_8.pth.part').touch()
    (theirs / 'best_1.pth').touch()
    found = differences(ours, theirs)
    assert found[0] == "files: [] too much, ['best_1.pth'] missing"
    assert found[1] == "unfinished files: ['.iter_8.pth.part']"
