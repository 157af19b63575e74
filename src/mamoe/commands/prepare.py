"""``mamoe prepare``: others' data become data sets of this package's layout, and go out again. Thin, as the cli."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mamoe.commands.options import with_options
from mamoe.console import progress
from mamoe.errors import ConfigError
from mamoe.machine.allocation import keep_freed_memory
from mamoe.machine.shares import this_share
from mamoe.machine.stopping import stopped_with

prepare = typer.Typer(
    no_args_is_help=True,
    help="Make data sets: import others' formats, segment photographs, fuse maps with masks, write captions, export.",
)


class Source(StrEnum):
    """Formats that can be imported."""

    ADE20K = "ade20k"
    BDD100K = "bdd100k"
    CAMVID = "camvid"
    CITYSCAPES = "cityscapes"
    COCO = "coco"
    FOLDER = "folder"
    IDD = "idd"
    KITTI360 = "kitti360"
    MAPILLARY = "mapillary"


class Target(StrEnum):
    """Formats that can be exported."""

    COCO_PANOPTIC = "coco-panoptic"


class Crowd(StrEnum):
    """What iscrowd in a COCO JSON means."""

    GROUP = "group"
    SINGLE = "single"


class Left(StrEnum):
    """What becomes of thing pixels that no mask claims."""

    GROUP = "group"
    CLASS = "class"
    VOID = "void"


TaxonomyOption = Annotated[
    str | None, typer.Option(help="coco: name or YAML file of the classes; default: COCO's own 133.")
]
DeriveOption = Annotated[
    bool, typer.Option("--derive-taxonomy", help="coco: make a taxonomy of the JSON's categories.")
]
CrowdOption = Annotated[Crowd, typer.Option(help="What iscrowd in a COCO JSON of objects means.")]
LinkOption = Annotated[bool, typer.Option("--link", help="Link to the pictures instead of copying them.")]
ValOption = Annotated[float | None, typer.Option(help="Share of train that becomes val, by whole scenes.")]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="Processes; default: one per core.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="OUT may be a data set; it gives way at the end.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Look and say what would be written; write nothing.")]
FollowOption = Annotated[
    bool, typer.Option("--follow-links", help="Files of the source may be links that lead out of it.")
]


def written(
    link: LinkOption = False,
    val: ValOption = None,
    workers: WorkersOption = None,
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
    follow_links: FollowOption = False,
) -> dict[str, Any]:
    """How a data set is written, in the words of all commands that make one."""
    return locals()


def _manner(*, workers: int | None = None, **how: Any) -> Any:
    from mamoe.machine.pool import usable_cores
    from mamoe.prepare.labelled import Manner

    return Manner(workers=workers or usable_cores(), share=this_share(), **how)


@prepare.command(name="import")
@with_options(written)
def import_(
    source_format: Source,
    source: Annotated[Path, typer.Argument(help="Its folder; of format folder that of the pictures.")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    maps: Annotated[Path | None, typer.Option(help="folder: label pictures, or a COCO JSON of objects.")] = None,
    classes: Annotated[str | None, typer.Option(help="folder: class table (YAML), or name of a taxonomy.")] = None,
    crowd: CrowdOption = Crowd.GROUP,
    taxonomy: TaxonomyOption = None,
    derive_taxonomy: DeriveOption = False,
    *,
    writing: dict[str, Any],
) -> None:
    """Import a data set, or any folder of pictures and maps, into the package's layout.

    Started again it goes on where it stopped; torchrun and SLURM array tasks share the work.

    Example: mamoe prepare import mapillary raw/vistas data/vistas --link
    """
    if source_format is not Source.FOLDER:
        given = {"--maps": maps, "--classes": classes, "--crowd": None if crowd is Crowd.GROUP else crowd}
        if named := [option for option, value in given.items() if value is not None]:
            raise ConfigError(f"{', '.join(named)}: for format folder alone; {source_format.value} has its own.")
        return _import(source_format, _importer(source_format, taxonomy, derive_taxonomy), source, out, writing)
    from mamoe.prepare.importers import folder_importer

    if maps is None:
        raise ConfigError("Which maps belong to the pictures? Give --maps, a folder of label pictures or a COCO JSON.")
    if taxonomy is not None or derive_taxonomy:
        raise ConfigError("--taxonomy and --derive-taxonomy are for coco; format folder takes --classes.")
    return _import(source_format, folder_importer(maps, classes, crowds=crowd is Crowd.GROUP), source, out, writing)


def _importer(source_format: Source, taxonomy: str | None, derive: bool) -> Any:
    from mamoe.prepare.importers import importer_of

    return importer_of(source_format.value, taxonomy, derive)


def _import(source_format: Source, importer: Any, source: Path, out: Path, writing: dict[str, Any]) -> None:
    from mamoe.prepare.importers import next_commands

    with _at_work(out), progress("Importing") as update:
        summary = importer(source, out, update, _manner(**writing))
    typer.echo(summary.text())
    if summary.done:
        typer.echo("Next: " + "\n      ".join(next_commands(summary, source_format.value)))


def _short(name: Source) -> None:
    """``mamoe prepare NAME``, the way formats were imported before there were so many."""

    @with_options(written, without=("val",))
    def command(
        source: Path,
        out: Path,
        taxonomy: TaxonomyOption = None,
        derive_taxonomy: DeriveOption = False,
        *,
        writing: dict[str, Any],
    ) -> None:
        _import(name, _importer(name, taxonomy, derive_taxonomy), source, out, writing)

    example = f"Example: mamoe prepare {name.value} raw/{name.value} data/{name.value}"
    prepare.command(name=name.value, help=f"Short for: import {name.value}.\n\n{example}")(command)


for short in (Source.CITYSCAPES, Source.CAMVID, Source.COCO):
    _short(short)


@prepare.command()
@with_options(written)
def fuse(
    images: Annotated[Path, typer.Argument(help="Folder of pictures.")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    semantic: Annotated[Path, typer.Option(help="Folder of maps of classes, PNG.")],
    instances: Annotated[
        Path, typer.Option(help="COCO JSON, or folder of YOLO labels, of stacks of PNGs, or of 16-bit PNGs.")
    ],
    classes: Annotated[str, typer.Option(help="Class table (YAML), or name of a taxonomy.")],
    score: Annotated[float, typer.Option(min=0, max=1, help="Masks below are dropped.")] = 0.5,
    visible: Annotated[float, typer.Option(min=0, max=1, help="Share that better masks must leave of one.")] = 0.5,
    agreement: Annotated[float, typer.Option(min=0, max=1, help="Share that must be of its class in the map.")] = 0.5,
    min_area: Annotated[int, typer.Option(min=0, help="Pixels of the smallest thing.")] = 32,
    min_stuff: Annotated[int, typer.Option(min=0, help="Pixels of the smallest stuff; less becomes void.")] = 0,
    rest: Annotated[Left, typer.Option(help="What thing pixels without a mask become.")] = Left.GROUP,
    crowd: CrowdOption = Crowd.GROUP,
    *,
    writing: dict[str, Any],
) -> None:
    """Fuse maps of classes and masks of single things into a data set with panoptic maps.

    fuse/ in it tells what was dropped and why, with pictures of the worst. Started again it goes on where it stopped;
    torchrun and SLURM array tasks share the work.

    Example: mamoe prepare fuse photos data/town --semantic maps --instances masks.json --classes cityscapes
    """
    from mamoe.prepare.classes import read_class_table
    from mamoe.prepare.fuse.folders import FuseSources, fuse_folders
    from mamoe.prepare.fuse.rules import FuseRules, Rest
    from mamoe.prepare.importers import next_commands

    rules = FuseRules(
        score=score,
        visible=visible,
        agreement=agreement,
        min_area=min_area,
        min_stuff=min_stuff,
        rest=Rest(rest.value),
    )
    manner = _manner(**writing)
    sources = FuseSources(images=images, semantic=semantic, instances=instances, crowds=crowd is Crowd.GROUP)
    with _at_work(out), progress("Fusing") as update:
        summary = fuse_folders(sources, out, read_class_table(classes), rules, progress=update, manner=manner)
    typer.echo(summary.text())
    if summary.done:
        typer.echo("Next: " + "\n      ".join(next_commands(summary)))


@prepare.command()
@with_options(written, without=("workers",))
def segment(
    images: Annotated[Path, typer.Argument(help="Folder of pictures.")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    model: Annotated[
        str, typer.Option(help="Hub name or folder: Mask2Former, OneFormer, EoMT, SegFormer; or a domain segmenter.")
    ],
    classes: Annotated[str, typer.Option(help="Name or YAML file of the taxonomy (a class table is one too).")],
    map_: Annotated[
        str | None, typer.Option("--map", help="LABEL=CLASS,LABEL=CLASS, or a YAML file of such pairs.")
    ] = None,
    parts: Annotated[bool, typer.Option("--parts", help="Maps of classes and masks, for `fuse`; no data set.")] = False,
    tile: Annotated[int, typer.Option(min=0, help="Larger pictures are cut into tiles of that side; 0: never.")] = 2048,
    batch: Annotated[int, typer.Option(min=1, help="Pictures or tiles at once.")] = 4,
    score: Annotated[float, typer.Option(min=0, max=1, help="Things below are dropped.")] = 0.5,
    min_area: Annotated[int, typer.Option(min=0, help="Pixels of the smallest thing.")] = 32,
    rest: Annotated[Left, typer.Option(help="What thing pixels without a mask become.")] = Left.GROUP,
    device: Annotated[str | None, typer.Option(help="For example cuda; default: what there is.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each loads the network.")] = 1,
    *,
    writing: dict[str, Any],
) -> None:
    """Make panoptic maps of photographs with a segmentation network: a data set, or with --parts what `fuse` takes.

    Which label of the network is which class is printed first. scores/ in OUT says how sure the network was. Started
    again it goes on where it stopped; torchrun and SLURM array tasks share the work.

    Example: mamoe prepare segment photos data/town --model networks/mask2former --classes cityscapes
    """
    from mamoe.machine.devices import usable_device
    from mamoe.machine.libraries import quiet_libraries
    from mamoe.prepare.classes import read_class_table
    from mamoe.prepare.fuse.rules import FuseRules, Rest
    from mamoe.prepare.importers import after_parts, next_commands
    from mamoe.prepare.segment.folders import Segmenting, segment_folder, segment_parts
    from mamoe.prepare.segment.labels import meaning_of, read_said
    from mamoe.prepare.segment.networks import describe
    from mamoe.prepare.writer import ImportSummary

    if parts and (writing["link"] or writing["val"] is not None):
        raise ConfigError("--parts writes no pictures and no splits: leave out --link and --val.")
    quiet_libraries()
    network = describe(model)
    meaning = meaning_of(network.labels, read_class_table(classes).taxonomy, read_said(map_), model)
    typer.echo(meaning.text())
    how = Segmenting(
        model=model,
        version=network.version,
        meaning=meaning,
        rules=FuseRules(score=score, min_area=min_area, rest=Rest(rest.value)),
        tile=tile,
        device=usable_device(device),
        batch=batch,
    )
    manner = _manner(**writing, workers=workers)
    with _at_work(out), progress("Segmenting") as update:
        summary = (segment_parts if parts else segment_folder)(images, out, how, update, manner)
    typer.echo(summary.text())
    if not summary.done:
        return
    if isinstance(summary, ImportSummary):
        typer.echo("Next: " + "\n      ".join(next_commands(summary)))
    else:
        typer.echo("Next: " + after_parts(images, out, classes, has_instances=summary.has_instances))


@prepare.command()
@with_options(written, without=("val", "follow_links"))
def export(
    target: Target,
    data: Annotated[Path, typer.Argument(help="A data set in the package's layout.")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    taxonomy: Annotated[str | None, typer.Option(help="Name or YAML file, where data.yaml does not say it.")] = None,
    *,
    writing: dict[str, Any],
) -> None:
    """Write a data set in another format: COCO's panoptic one, which panopticapi reads.

    Example: mamoe prepare export coco-panoptic data/town exported
    """
    from mamoe.prepare.export import export_coco_panoptic
    from mamoe.vocabulary.taxonomy import Taxonomy

    assert target is Target.COCO_PANOPTIC  # there is no other
    manner = _manner(**writing)
    classes = None if taxonomy is None else Taxonomy.load(taxonomy)
    with _at_work(out), progress("Exporting") as update:
        summary = export_coco_panoptic(data, out, update, manner, taxonomy=classes)
    typer.echo(summary.text())


def _at_work(out: Path):
    keep_freed_memory()
    return stopped_with(f"what is written is kept beside {out}; the same command goes on from there.")
