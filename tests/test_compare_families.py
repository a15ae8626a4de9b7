"""``tools/compare_families.py``: which trainings it starts, what it keeps, what its table says."""

import json
from types import SimpleNamespace

import pytest

from helpers.tool import tool
from paca_mm.engine.tasks import TASKS
from paca_mm.errors import UserError


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """The tool, its trainings replaced by what they would have written."""
    module = tool('compare_families')
    monkeypatch.chdir(tmp_path)
    started = []

    def run(words, stdout, **_):
        if compare.exit_code:
            return SimpleNamespace(returncode=compare.exit_code)
        started.append(words[2:])
        task = words[2].partition('configs/')[2].split('/')[0]
        seed = int(words[-1].rpartition('=')[2]) if words[-1].startswith('randomness') else 0
        folder = tmp_path / words[words.index('--work-dir') + 1] / '20260101_000000/vis_data'
        folder.mkdir(parents=True, exist_ok=True)
        lines = [{'loss': 1.0}, {TASKS[task].headline: 0.5 + seed / 10, 'step': 1}]
        (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr('subprocess.run', run)
    compare = SimpleNamespace(
        started=started, exit_code=0, main=lambda *words: module.main.__wrapped__([*words])
    )
    return compare


def test_every_small_config_runs_with_every_seed_and_finished_ones_once(compare, capsys):
    pytest.importorskip('mmpretrain')
    words = ('--tasks', 'cls', '--families', 'paca', 'attentive_norm', '--seeds', '0', '1')
    compare.main(*words)
    assert [(w[0].rpartition('/')[2], w[-1]) for w in compare.started] == [
        ('paca_shapes.py', 'randomness.seed=0'),
        ('resnet_an_shapes.py', 'randomness.seed=0'),
        ('paca_shapes.py', 'randomness.seed=1'),
        ('resnet_an_shapes.py', 'randomness.seed=1'),
    ]
    assert all('--shapes' in w for w in compare.started)
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith('resnet_an '))
    assert line.split()[3:5] == ['0.550', '0.0707']  # mean and standard deviation of 0.5 and 0.6
    compare.main(*words)
    assert len(compare.started) == 4
    compare.main(*words, '--cfg-options', 'train_cfg.max_epochs=1')  # another schedule
    assert len(compare.started) == 8


def test_a_training_that_fails_says_where_its_words_are(compare):
    compare.exit_code = 1
    with pytest.raises(UserError, match=r'exit code 1; its last words are in .*output\.txt'):
        compare.main('--tasks', 'cls', '--families', 'paca')


def test_a_family_without_the_task(compare):
    with pytest.raises(UserError, match='none of attentive_norm has a small model for seg'):
        compare.main('--tasks', 'seg', '--families', 'attentive_norm')
