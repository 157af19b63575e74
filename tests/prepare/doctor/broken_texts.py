"""Faults of prompts and descriptions, to be planted in a clean data set; see broken_sets.py."""

from broken_sets import Where, a_thing, book, fault, panoptic, picture, prompt_of_line, table, with_entries, with_line


@fault("there is no such picture")
def prompt_of_no_picture(data):
    with table(data).open("a") as file:
        file.write("scene_nowhere.png,a street\n")
    return Where(file=table(data), line=10)


@fault("has no prompt in")
def picture_without_prompt(data):
    lines = table(data).read_text().splitlines()
    table(data).write_text("\n".join(lines[:-1]) + "\n")
    return Where(file=picture(data, 7))


@fault("empty prompt")
def prompt_empty(data):
    with_line(data, 3, prompt_of_line(""))
    return Where(file=table(data), severity="note")


@fault("the end is cut off")
def prompt_too_long(data):
    with_line(data, 3, prompt_of_line("an extraordinarily " * 60 + "street"))
    return Where(file=table(data), line=3, severity="warning")


@fault("pictures have the prompt")
def prompt_repeated(data):
    for line in range(2, 10):
        with_line(data, line, prompt_of_line("a street"))
    return Where(file=table(data), severity="warning")


@fault("already has a prompt")
def prompt_row_twice(data):
    lines = table(data).read_text().splitlines()
    table(data).write_text("\n".join([*lines, lines[2]]) + "\n")
    return Where(file=table(data), line=10)


@fault("3 cells")
def prompt_with_a_bare_comma(data):
    with_line(data, 4, prompt_of_line("a street, at dusk"))
    return Where(file=table(data), line=4)


@fault("check the quotes")
def prompt_with_an_open_quote(data):
    with_line(data, 9, prompt_of_line('"a street'))
    return Where(file=table(data), line=9)


@fault("the header must be")
def prompts_without_header(data):
    with_line(data, 1, lambda line: "file,text")
    return Where(file=table(data), line=1)


@fault("is not UTF-8")
def prompts_in_latin_1(data):
    with_line(data, 3, prompt_of_line("a caf\u00e9"))
    table(data).write_bytes(table(data).read_text(encoding="utf-8").encode("latin-1"))
    return Where(file=table(data))


@fault("is not UTF-8")
def prompts_in_utf_16(data):
    table(data).write_text(table(data).read_text(encoding="utf-8"), encoding="utf-16")
    return Where(file=table(data))


@fault("byte order mark")
def prompts_with_a_byte_order_mark(data):
    table(data).write_text(table(data).read_text(encoding="utf-8"), encoding="utf-8-sig")
    return Where(file=table(data), line=1, severity="note")


@fault("read as another encoding")
def prompt_garbled(data):
    with_line(data, 3, prompt_of_line("a caf\u00e9".encode().decode("latin-1")))
    return Where(file=table(data), line=3, severity="warning")


@fault("'\\x07'")
def prompt_with_a_bell(data):
    with_line(data, 3, prompt_of_line("a street\x07"))
    return Where(file=table(data), line=3, severity="warning")


@fault("quoted twice")
def prompt_quoted_twice(data):
    with_line(data, 3, prompt_of_line('"""a street"""'))
    return Where(file=table(data), line=3, severity="warning")


@fault("without . and ..")
def prompt_of_a_path_outside(data):
    with_line(data, 3, lambda line: "../../secret.png,a street")
    return Where(file=table(data), line=3)


@fault("without . and ..")
def prompt_of_an_absolute_path(data):
    with_line(data, 3, lambda line: "/etc/passwd,a street")
    return Where(file=table(data), line=3)


@fault("separated by /")
def prompt_of_a_windows_path(data):
    with_line(data, 3, lambda line: "train\\scene.png,a street")
    return Where(file=table(data), line=3)


@fault("no such picture")
def prompt_of_a_name_with_nul(data):
    with_line(data, 3, lambda line: "scene\0.png,a street")
    return Where(file=table(data), line=3)


# Instance prompts


@fault("not valid JSON")
def instance_prompts_cut_off(data):
    book(data).write_text(book(data).read_text()[:-20])
    return Where(file=book(data))


@fault("stands twice")
def instance_prompts_with_a_key_twice(data):
    name = picture(data).name
    book(data).write_text(f'{{"{name}": {{}}, "{name}": {{}}}}')
    return Where(file=book(data))


@fault("there is no such picture")
def instance_prompts_of_no_picture(data):
    with_entries(data, lambda entries: entries.update({"nowhere.png": {"1": "a car"}}))
    return Where(file=book(data))


@fault("no such segment")
def instance_prompt_of_no_segment(data):
    with_entries(data, lambda entries: entries[picture(data).name].update({"4321": "a car"}))
    return Where(file=book(data), segment=4321)


@fault("text that is not empty")
def instance_prompt_empty(data):
    segment, _ = a_thing(panoptic(data))
    with_entries(data, lambda entries: entries[picture(data).name].update({str(segment): " "}))
    return Where(file=book(data), segment=segment)


@fault("a whole number in 1..65535")
def instance_prompt_of_no_number(data):
    with_entries(data, lambda entries: entries[picture(data).name].update({"car": "a car"}))
    return Where(file=book(data))


@fault("things without a prompt")
def thing_without_prompt(data):
    segment, _ = a_thing(panoptic(data))
    with_entries(data, lambda entries: entries[picture(data).name].pop(str(segment)))
    return Where(file=panoptic(data), segment=segment, severity="warning")


@fault("the end is cut off")
def instance_prompt_too_long(data):
    segment, _ = a_thing(panoptic(data))
    with_entries(data, lambda entries: entries[picture(data).name].update({str(segment): "a red car " * 30}))
    return Where(file=book(data), segment=segment, severity="warning")


# The description


@fault("is not read")
def description_misnamed(data):
    (data / "data.yaml").rename(data / "data.yml")
    return Where(file=data / "data.yml", severity="note")
