"""fpswitch kernels: the kernels of the model, and what differs between them."""

import textwrap

import click

from sim.cli.common import WIDTH, emit, json_option


@click.command()
@click.argument("name", required=False)
@json_option
def kernels(name: str | None, as_json: bool) -> None:
    """List the Linux kernels of the model, and the differences between them.

    Each difference has the values that the model uses, and the kernels that share them. With NAME, show what this
    kernel does, with its source in Linux and where that was read. Any other release is an input error that says which
    kernel is nearest, and what may differ. docs/kernel-versions.md is the same table with all sources.

    With --json: {"kernels": [{"name", "title", "about"}], "differences": [{"number", "topic", "kernels": {NAME:
    {"says", "source", "checked", "since" (a release, or null), "values"}}}]}; masks are numbers.

    \b
    Examples:
      fpswitch kernels
      fpswitch kernels v6.12
      fpswitch kernels v6.18 --json
    """
    from sim.kernel import versions
    from sim.report import kernel_versions

    chosen = versions.names() if name is None else (versions.version(name).name,)
    emit(kernel_versions.document(chosen), _all_text() if name is None else _one_text(chosen[0]), as_json)


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


def _one_text(name: str) -> str:
    from sim.kernel import versions

    title = versions.version(name).title
    lines = [title, "=" * len(title), textwrap.fill(versions.about()[name], WIDTH)]
    for row in versions.differences():
        cell = row.cells[name]
        since = f" Since {cell.since}." if cell.since else ""
        lines += ["", f"{row.number:2} {row.topic}", _item("", cell.says + since)]
        lines += [_item("source:", cell.source), _item("checked:", cell.checked)]
        lines += [_item(f"{key}:", versions.shown(value, "; ")) for key, value in cell.values.items()]
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
