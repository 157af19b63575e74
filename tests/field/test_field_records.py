"""Records beside pictures that say what nobody drew with."""

import pytest
from PIL import Image

from mamoe.errors import DatasetError
from mamoe.evaluation.run import folder_row


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ('{"mode": "cfg", "steps": "many"}', "steps: 'many'"),
        ('{"mode": "cfg", "guidance_scale": NaN}', "guidance_scale: nan"),
        ('{"mode": "fast", "steps": 0}', "mode: 'fast', steps: 0"),
        ('{"scheduler": ["DDIM"], "steps": true}', r"scheduler: \['DDIM'\], steps: True"),
    ],
)
def test_what_a_number_is_written_down_with_must_be_meant(tmp_path, record, says):
    """NaN made metrics.json no JSON."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(record)
    with pytest.raises(DatasetError, match=rf"a\.json .*cannot mean {says}"):
        folder_row(tmp_path)


def test_records_of_old_and_of_others_say_less(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text('{"steps": 3, "guidance_scale": 1}')
    row = folder_row(tmp_path)
    assert row.generation is not None and row.generation.mode == "cond" and row.generation.sampler is None
