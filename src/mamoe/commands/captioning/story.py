"""From the words on the command line to captions in the text files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mamoe.commands.captioning.preview import Preview, Row, write_preview
from mamoe.console import note, progress
from mamoe.data.folder.description import data_folder
from mamoe.errors import ConfigError, DatasetError
from mamoe.machine.shares import this_share
from mamoe.prepare.captioning.answers import Reply, TokenLimit
from mamoe.prepare.captioning.asking import Asking, Request
from mamoe.prepare.captioning.batches import Batches, BatchSizes
from mamoe.prepare.captioning.choices import OPENAI, Kind, Mode, Only, Via
from mamoe.prepare.captioning.costs import FREE, Prices, prices_of
from mamoe.prepare.captioning.crops import shrunk
from mamoe.prepare.captioning.items import Progress, list_objects, list_pictures, wanted_objects
from mamoe.prepare.captioning.journal import Journal
from mamoe.prepare.captioning.ledger import Ledger
from mamoe.prepare.captioning.live import Outcome, Patience, ask_live
from mamoe.prepare.captioning.run import FOLDER, NOT_ANSWERED, Plan, Session, Summary
from mamoe.prepare.captioning.server import Failed, Server, key_from
from mamoe.prepare.captioning.template import Template
from mamoe.storage.lock import held
from mamoe.vocabulary.selection import spread
from mamoe.vocabulary.taxonomy import Taxonomy

_PREVIEWED = 768  # pixels, longest side
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the user asked for."""

    kind: Kind
    data: Path
    model: str
    template: str
    via: Via = Via.LIVE
    base_url: str = OPENAI
    key_env: str | None = None
    split: Sequence[str] | None = None
    taxonomy: str | None = None
    classes: str | None = None  # comma-separated
    min_pixels: int = 1
    margin: float = 0.0
    only: Only = Only.MISSING
    mode: Mode | None = None
    preview: int | None = None
    price_in: float | None = None
    price_out: float | None = None
    max_cost: float | None = None
    base: str | None = None
    workers: int = 8
    timeout: float = 120.0
    device: str | None = None
    dry_run: bool = False
    patience: Patience = field(default_factory=Patience)
    sizes: BatchSizes = field(default_factory=BatchSizes)


def write_captions(asked: Asked, say: Say) -> None:
    """Ask for what is missing and write it into the text files.

    Raises:
        ConfigError: the words contradict each other, or the server refuses to serve this.
        DatasetError: the data set cannot be read; or, when all is written, some items have no text that serves.
        ServerError: the server does not answer.
    """
    _check_words(asked)
    prices = prices_of(asked.price_in, asked.price_out, asked.max_cost)
    if asked.via is Via.LOCAL:
        prices = FREE
    template = Template.load(asked.template)
    session = _session(asked, template, prices)
    journal = session.ledger.journal
    for place in journal.torn:
        note(f"{place} is cut off or damaged, and left aside.")
    if asked.dry_run:
        plan = session.plan()
        say(_estimate(session, plan, asked))
        if asked.preview is not None:
            _preview(asked, session, spread(plan.todo, asked.preview), say)
        return
    asker = _asker(asked, session)  # before anything is written: a missing key or model ends it here
    journal.path.parent.mkdir(parents=True, exist_ok=True)
    journal.path.touch()
    with held(journal.path):
        if journal.is_stale:
            raise ConfigError(f"Another process wrote to {journal.path} while this one was starting: start it again.")
        try:
            _run(asked, session, asker, say)
        finally:
            journal.close()


def _run(asked: Asked, session: Session, asker: _Asker, say: Say) -> None:
    asker.look_back()
    plan = session.plan()
    say(_estimate(session, plan, asked))
    if not plan.items:
        return
    chosen = plan.todo if asked.preview is None else spread(plan.todo, asked.preview)
    try:
        with progress("Asking") as update:
            outcome = asker.ask(plan, chosen, update)
    except Exception:
        if asked.preview is None:
            session.finish(plan, Outcome.empty())  # what is answered is of use, whatever ended the rest
        raise
    if asked.preview is not None:
        _preview(asked, session, chosen, say)
        return
    summary = session.finish(plan, outcome)
    say(_in_one_line(session, summary))
    if not summary.whole:
        raise DatasetError(_why_not_whole(summary))


def _check_words(asked: Asked) -> None:
    """Refuse what would be ignored.

    Raises:
        ConfigError: words that have no meaning beside the others.
    """
    local = {"--base-url": asked.base_url != OPENAI, "--key-env": asked.key_env, "--max-cost": asked.max_cost}
    if asked.via is Via.LOCAL and (given := [word for word, value in local.items() if value]):
        raise ConfigError(f"{', '.join(given)}: a model on this machine has no address and no price.")
    if asked.via is not Via.LOCAL and asked.device is not None:
        raise ConfigError("--device is for --via local: a server computes where it likes.")
    if asked.mode is not None and asked.only is Only.MISSING:
        raise ConfigError("--mode says what becomes of texts that are there, and --only missing leaves those alone.")
    if asked.preview is not None and not this_share().alone:
        raise ConfigError("--preview makes one page: start it as one process.")


def _session(asked: Asked, template: Template, prices: Prices | None) -> Session:
    taxonomy = None if asked.taxonomy is None else Taxonomy.load(asked.taxonomy)
    folder, share = data_folder(asked.data, taxonomy), this_share()
    for line in folder.notes:
        note(line)
    if asked.kind is Kind.PICTURES:
        found = list_pictures(asked.data, folder, asked.split, share)
    else:
        wanted = wanted_objects(folder.taxonomy, _names(asked.classes), asked.min_pixels)
        with progress("Reading maps") as update:
            found = list_objects(asked.data, folder, asked.split, share, wanted, update)
    for line in found.notes:
        note(line)
    return Session(
        root=asked.data,
        kind=asked.kind,
        found=found,
        asking=Asking(model=asked.model, template=template, margin=asked.margin),
        ledger=Ledger(Journal(asked.data / FOLDER, asked.kind.value, share), share, prices, asked.max_cost),
        share=share,
        only=asked.only,
        mode=asked.mode,
        limit=None if asked.base is None else _token_limit(asked.base),
    )


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _token_limit(base: str) -> TokenLimit:
    from mamoe.bases.sources import parts_of
    from mamoe.conditioning.encoders import reader_of
    from mamoe.runs.source import Source

    parts = parts_of(Source(path=base))
    encoder = parts.index().get("text_encoder", [None, None])[1]
    tokenizer, most = reader_of(parts.tokenizer("tokenizer"), encoder=encoder)
    return TokenLimit(count=lambda text: len(tokenizer(text, verbose=False).input_ids), most=int(most))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asker:
    """Whoever answers."""

    ask: Callable[[Plan, Sequence[Request], Progress], Outcome]
    look_back: Callable[[], None] = lambda: None  # what became of batches whose making was cut short


def _asker(asked: Asked, session: Session) -> _Asker:
    ledger = session.ledger
    if asked.via is Via.LOCAL:
        from mamoe.machine.devices import usable_device
        from mamoe.machine.libraries import quiet_libraries
        from mamoe.prepare.captioning.local import LocalModel, ask_local

        quiet_libraries()
        model = LocalModel(asked.model, usable_device(asked.device))
        return _Asker(ask=lambda plan, requests, update: ask_local(requests, model, ledger, update))
    server = Server(asked.base_url, key_from(asked.key_env, asked.base_url), asked.timeout)
    if server.in_the_clear:
        note(f"{asked.base_url} is not encrypted: whoever listens on the way reads the key and the pictures.")
    batches = Batches(server, ledger, asked.sizes, asked.patience)

    def send(request: Request) -> Reply | Failed:
        sent = request.sent(server.limit_key)
        came = server.chat(sent.body)
        return replace(came, pixels=sent.pixels) if isinstance(came, Reply) else came

    def ask_live_all(plan: Plan, requests: Sequence[Request], update: Progress) -> Outcome:
        return ask_live(
            requests,
            send,
            ledger,
            workers=asked.workers,
            patience=asked.patience,
            progress=update,
        )

    def ask_batches(plan: Plan, requests: Sequence[Request], update: Progress) -> Outcome:
        known = {request.key: request for request in plan.requests.values()}
        outcome = batches.ask(requests, known, update)
        if batches.strange:
            note(f"{batches.strange} lines of the batches answer nothing that was asked, or the same again.")
        return outcome

    # A preview is asked live: nobody waits a day for it.
    in_batches = asked.via is Via.BATCH and asked.preview is None
    return _Asker(ask=ask_batches if in_batches else ask_live_all, look_back=batches.find_unheard)


def _estimate(session: Session, plan: Plan, asked: Asked) -> str:
    """What is going to be asked and what that may cost, in words."""
    ledger, kind = session.ledger, session.kind
    parts = [f"{len(plan.todo):,} to ask" if len(plan.todo) else "nothing to ask"]
    parts += [
        f"{count:,} {what}"
        for count, what in (
            (plan.answered, "answered already"),
            (plan.waiting, "in open batches" + ("" if asked.via is Via.BATCH else " (--via batch collects them)")),
            (plan.failed, "whose answer did not serve (--only failed asks again)"),
            (plan.had, "with a text of their own (--only all with --mode asks for those too)"),
        )
        if count
    ]
    line = f"{len(session.found.items):,} {kind}: {', '.join(parts)}."
    if not plan.todo:
        return line
    read, written = session.estimate(plan)
    line += f" About {read:,.0f} tokens to read and {written:,.0f} to write"
    if asked.via is Via.LOCAL:
        return f"{line}, on this machine."
    if ledger.prices is None:
        return f"{line}; what they cost is not known without --price-in and --price-out."
    line += f", about {ledger.prices.of((read, written)):.4g} at these prices, {ledger.cost_of(plan.todo):.4g} at most"
    return f"{line}; {ledger.spent:.4g} spent before." if ledger.spent else f"{line}."


def _preview(asked: Asked, session: Session, requests: Sequence[Request], say: Say) -> None:
    rows = []
    for request in requests:
        try:
            picture: np.ndarray | None = shrunk(request.picture(), _PREVIEWED)
            unread = None
        except DatasetError as error:
            picture, unread = None, str(error)
        text, fault = session.verdict(request)
        answer = None if asked.dry_run and fault == NOT_ANSWERED else text
        rows.append(
            Row(
                name=request.item.id,
                picture=picture,
                before=request.item.text,
                answer=answer,
                fault=unread or (None if answer is None else fault),
            )
        )
    template = session.asking.template
    system, prompt = template.messages(requests[0].item.subject if requests else "…")
    path = asked.data / FOLDER / f"{session.kind}.preview.html"
    facts = [("Model", asked.model), ("Template", asked.template), ("Shown", str(len(rows)))]
    if session.ledger.costs:
        facts.append(("Spent so far", f"{session.ledger.spent:.4g}"))
    title = f"{'Captions' if session.kind is Kind.PICTURES else 'Instance captions'} of {asked.data.name}"
    write_preview(Preview(title=title, facts=facts, system=system, prompt=prompt, rows=rows), path)
    say(f"{path} shows {len(rows)} {session.kind} and what was answered; no text file was changed.")


def _in_one_line(session: Session, summary: Summary) -> str:
    share = "" if session.share.alone else f" (part {session.share.rank + 1} of {session.share.count})"
    line = (
        f"{summary.good:,} of {summary.wanted:,} {summary.kind}{share} have their text, {summary.written:,} of them new"
    )
    if summary.files:
        line += f" in {', '.join(str(path) for path in summary.files)}"
    line += f"; {summary.tokens[0]:,} tokens read, {summary.tokens[1]:,} written"
    if session.ledger.costs:
        line += f", {summary.spent:.4g} spent"
    return f"{line}; {summary.report}"


def _why_not_whole(summary: Summary) -> str:
    """What is missing, why, and what to do."""
    count = summary.wanted - summary.good
    kinds = Counter(why.partition(":")[0] for why in summary.faults.values())
    line = f"{count:,} {summary.kind} have no text yet ({', '.join(f'{n:,} {why}' for why, n in kinds.most_common(5))})"
    if summary.out_of_money:
        line += f"; {summary.out_of_money:,} were not asked for --max-cost: raise it to go on"
    return (
        f"{line}. {summary.report} lists them. The same command asks for what was not answered, --only failed also for "
        "what was and did not serve."
    )
