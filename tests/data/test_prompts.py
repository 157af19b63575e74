import pytest

from mamoe.data.folder.prompts import PromptLine, read_instance_prompts, read_prompts_csv, scan_prompts_csv
from mamoe.errors import DatasetError


def _write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_prompts_csv(tmp_path, start, end):
    rows = ["img_name,prompt", 'a_1.png,"a street, wet"', "ä 2.png,", '3.jpg,"two', 'lines ""here"""', "4.png,x\u2028y"]
    path = _write(tmp_path, "p.csv", start + end.join(rows) + end)
    prompts = read_prompts_csv(path)
    expected = {"a_1.png": "a street, wet", "ä 2.png": "", "3.jpg": f'two{end}lines "here"', "4.png": "x\u2028y"}
    assert prompts == expected
    assert scan_prompts_csv(path)[0]["4.png"] == PromptLine(prompt="x\u2028y", line=6)


def test_all_wrong_rows_are_named_by_line(tmp_path):
    text = "img_name,prompt\na.png,one, two\nb.png,x\nb.png,y\n../c.png,z\n,q\nd.png\n"
    with pytest.raises(DatasetError) as caught:
        read_prompts_csv(_write(tmp_path, "p.csv", text))
    message = str(caught.value)
    for part in [
        "5 problems",
        "line 2: a row has a file name and a prompt, got 3 cells",
        "line 4: 'b.png' already has a prompt in line 3",
        "line 5: a picture is named by its place below the folder of its split, without . and .., got '../c.png'",
        "line 6: the file name is empty",
        "line 7: a row has a file name and a prompt, got 1 cells",
    ]:
        assert part in message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "header must be img_name,prompt"),
        ("name,prompt\n", "got 'name,prompt'"),
        (b"img_name,prompt\na.png,\xff\n", "not UTF-8"),
        ('img_name,prompt\na.png,"open\n', "line 2: not valid CSV"),
    ],
)
def test_files_that_are_no_prompts_csv(tmp_path, content, complaint):
    with pytest.raises(DatasetError, match=complaint):
        read_prompts_csv(_write(tmp_path, "p.csv", content))


def test_long_lists_are_cut(tmp_path):
    rows = "".join(f"{i}.png\n" for i in range(70))
    with pytest.raises(DatasetError, match="and 20 more") as caught:
        read_prompts_csv(_write(tmp_path, "p.csv", "img_name,prompt\n" + rows))
    assert "70 problems" in str(caught.value) and str(caught.value).count("\n") == 51


def test_instance_prompts(tmp_path):
    path = _write(tmp_path, "i.json", '{"a.png": {"1": "a red car", "65535": "x"}, "b.png": {}}')
    assert read_instance_prompts(path) == {"a.png": {1: "a red car", 65535: "x"}, "b.png": {}}


def test_all_wrong_instance_prompts_are_named_by_key(tmp_path):
    text = (
        '{"a.png": {"0": "x", "65536": "x", "one": "x", "7": "", "8": 3, "9": "x", "09": "y", "²": "x"},'
        ' "b.png": [], "c.png": {"4": "x", "4": "y"}}'
    )
    with pytest.raises(DatasetError) as caught:
        read_instance_prompts(_write(tmp_path, "i.json", text))
    message = str(caught.value)
    for key in ["0", "65536", "one", "7", "8", "²"]:
        assert f"key 'a.png' -> '{key}'" in message
    for part in ["segment 9 is given twice", "key 'b.png'", "key '4' stands twice", "9 problems"]:
        assert part in message


@pytest.mark.parametrize(("content", "complaint"), [("{", "not valid JSON"), ("[]", "must hold an object")])
def test_files_that_are_no_instance_prompts(tmp_path, content, complaint):
    with pytest.raises(DatasetError, match=complaint):
        read_instance_prompts(_write(tmp_path, "i.json", content))


def test_missing_files(tmp_path):
    for read in (read_prompts_csv, read_instance_prompts):
        with pytest.raises(DatasetError, match=r"no file .*gone"):
            read(tmp_path / "gone")
