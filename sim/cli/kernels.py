"""fpswitch kernels: the kernels of the model, and what differs between them."""

import textwrap
from typing import Any

import click

from sim.cli.common import WIDTH, emit, json_option


@click.command()
@click.argument("name", required=False)
@json_option
def kernels(name: str | None, as_json: bool) -> None:
    """List the Linux kernels of the model, and the differences between them.

    Each difference has the values that the model uses, and the kernels that share them. With NAME, show what this
    kernel does, with its source in Linux and where that was read. For any other release, show which kernel is nearest,
    and what differs or may differ: v5.10, v5.15, v6.1, v6.5, v6.8, v6.9, v6.10, v6.11, v6.13, v6.14, v6.16 and v7.0 to
    v7.2 were read. Of a stable release, such as v6.6.106, it says where its kernel was read in another.
    docs/kernel-versions.md is the same table with all sources.

    With --json: {"kernels": [{"name", "title", "about"}], "differences": [{"number", "topic", "kernels": {NAME:
    {"says", "source", "checked", "since" (a release, or null), "values"}}}], "note" (on a stable release, or null)};
    masks are numbers. Of another release: {"release", "nearest", "says", "read" ({"name", "repository", "commit",
    "about"}, or null), "besides", "differs": [{"number", "topic", "says", "source", "values"}], "may_differ":
    [{"number", "topic"}]}; "says", "source" and "values" are null where it was not read.

    \b
    Examples:
      fpswitch kernels
      fpswitch kernels v6.12
      fpswitch kernels v6.1
      fpswitch kernels v6.18 --json
    """
    from sim.kernel import releases, versions
    from sim.report import kernel_versions

    note = ""
    if name is not None and name not in versions.names() and (other := releases.release(name)):
        found = kernel_versions.other_release(other)
        if found["says"]:
            emit(found, _other_text(found), as_json)
            return
        note = releases.of_a_stable(name, found["nearest"], versions.differences())
        name = found["nearest"]
    chosen = versions.names() if name is None else (versions.version(name).name,)
    document = kernel_versions.document(chosen) | {"note": note or None}
    emit(document, _all_text() if name is None else _one_text(chosen[0], note), as_json)


def _all_text() -> str:
    from sim.kernel import versions
    from sim.report.kernel_versions import value_groups

    about = versions.about()
    wide = max(map(len, versions.names())) + 2
    lines = [
        textwrap.fill(about[name], WIDTH, initial_indent=name.ljust(wide), subsequent_indent=" " * wide)
        for name in versions.names()
    ]
    for row in versions.differences():
        lines += ["", f"{row.number:2} {row.topic}"]
        for key, groups in value_groups(row).items():
            shared = [f"{group.value} ({', '.join(group.kernels)})" for group in groups]
            lines.append(_item(f"{key}:", " | ".join(shared) if len(groups) > 1 else f"{groups[0].value} (all)"))
    return "\n".join(lines)


def _one_text(name: str, note: str) -> str:
    from sim.kernel import versions

    title = versions.version(name).title
    lines = [title, "=" * len(title), textwrap.fill(versions.about()[name], WIDTH)]
    lines += ["", textwrap.fill(f"{note}.", WIDTH)] if note else []
    for row in versions.differences():
        cell = row.cells[name]
        since = f" Since {cell.since}." if cell.since else ""
        lines += ["", f"{row.number:2} {row.topic}", _item("", cell.says + since)]
        lines += [_item("source:", cell.source), _item("checked:", cell.checked)]
        lines += [_item(f"{key}:", versions.shown(value, "; ")) for key, value in cell.values.items()]
    return "\n".join(lines)


def _other_text(found: dict[str, Any]) -> str:
    from sim.kernel.versions import shown

    lines = [textwrap.fill(f"{found['says']}.", WIDTH)]
    if found["read"]:
        read = found["read"]
        lines.append(textwrap.fill(f"Read: {read['repository']} @ {read['commit']}, {read['about']}.", WIDTH))
    lines += [textwrap.fill(f"Besides: {found['besides']}.", WIDTH)] if found["besides"] else []
    for row in found["differs"] if found["read"] else ():
        lines += ["", f"{row['number']:2} {row['topic']}", _item("", row["says"]), _item("source:", row["source"])]
        lines += [_item(f"{key}:", shown(value, "; ")) for key, value in row["values"].items()]
    return "\n".join(lines)


def _item(what: str, text: str) -> str:
    return textwrap.fill(
        f"{what} {text}".strip(),
        WIDTH,
        initial_indent=" " * 3,
        subsequent_indent=" " * 6,
        break_long_words=False,
        break_on_hyphens=False,
    )
