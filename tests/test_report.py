"""The report is one file that opens in a browser without a network, and says what the first screen says."""

import html
import os
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser

import fake_host
import pytest
import worlds
from command import run as run_command
from command import run_json

import sim
from sim import experiment
from sim.costs import table as cost_tables
from sim.report.markup import Markup, Number, element, joined, table
from sim.results import files

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

pytestmark = pytest.mark.usefixtures("few_draws")

HOST = worlds.web(
    ["free-ssp", "manual-load", "manual-lazy", "xstate-guest"],
    run='contrasts = [["manual-load", "xstate-guest"]]\nfeedback = true',
    title="A <b>host</b> & its <script>alert(1)</script>",
).replace("[run]", 'question = "Is it \\"escaped\\"?"\n[run]')


@pytest.fixture(scope="module")
def page(directory):
    return sim.compare(sim.load(directory)).report()


class Elements(HTMLParser):
    """The elements of a page, the ids among them, and its text."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for each, attributes in self.elements if each == tag]


def test_text_is_escaped_unless_it_is_markup():
    assert element("p", "a < b", element("b", '"'), class_='x"y') == '<p class="x&quot;y">a &lt; b<b>&quot;</b></p>'
    assert joined(["<", Markup("<")]) == "&lt;<"
    cells = table(["<h>"], [[Number(float("nan"), "-")], ["<td>"]])
    assert '<td class="number" data-value="">-</td>' in cells
    assert "&lt;td&gt;" in cells
    assert "&lt;h&gt;" in cells


def test_the_page_says_what_the_first_screen_says(directory, page):
    comparison = sim.compare(sim.load(directory))
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).replace("±", "+-").split())
    screen = " ".join(comparison.answer().split())
    answer = re.search(r"ANSWER (.*? of all CPUs\.)", screen)[1]
    assert answer in text
    assert comparison.answer().splitlines()[0].split(":")[0] in text
    for needed in ("manual-lazy: not comparable", "perf kvm stat", comparison.results.manifest["scenario_sha256"]):
        assert needed in text


def test_no_number_of_the_tables_is_shown_as_0_that_is_not(page):
    tables = page[page.index('<section id="tables"') : page.index('<section id="costs"')]
    cells = re.findall(r'<td class="number" data-value="([^"]*)">([^<]*)<', tables)
    assert len(cells) > 100
    assert [
        cell for cell in cells if cell[0] and float(cell[0]) and not float(re.sub("[^0-9.e]", "", cell[1]) or 1)
    ] == []


def test_nothing_of_the_users_is_markup_and_nothing_is_loaded(page):
    found = Elements(page)
    assert len(found.all("script")) == 1
    assert "<b>host</b>" not in page
    assert "A &lt;b&gt;host&lt;/b&gt; &amp; its" in page
    loads = [value for _, attributes in found.elements for name, value in attributes.items() if name in ("src", "data")]
    loads += [
        value
        for tag, attributes in found.elements
        if tag in ("a", "link", "use", "image")
        for name, value in attributes.items()
        if "href" in name and not value.startswith("#")
    ]
    assert loads == []
    assert "default-src 'none'" in found.all("meta")[1]["content"]


def test_ids_are_unique_and_what_refers_to_them_finds_them(page):
    found = Elements(page)
    ids = Counter(attributes["id"] for _, attributes in found.elements if "id" in attributes)
    assert [name for name, times in ids.items() if times > 1] == []
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', page))
    assert len(referred) > 20
    assert referred <= set(ids)
    assert len(found.all("svg")) == 4


def test_every_cost_row_that_was_used_is_there_with_its_source(directory, page):
    results = sim.load(directory)
    case = results.cases[0]["case"]
    used = sim.compare(results).answers.used(case)
    rows = cost_tables.current("sapphire-rapids").rows
    costs = page[page.index('<section id="costs"') : page.index('<section id="scenario"')]
    assert costs.count("<tr>") == len(used) + 1
    assert {"WRMSR(PLx_SSP)/base", "XRSTORS/loaded/CET_KERNEL"} <= set(used)
    for name in used:
        assert html.escape(rows[name].source) in costs
        assert html.escape(rows[name].conditions) in costs


def test_the_scenario_in_it_is_one_that_can_be_run(page, tmp_path):
    text = page[page.index('<section id="scenario"') :]
    text = html.unescape(re.search(r"<pre>(.*?)</pre>", text, re.DOTALL)[1])
    path = tmp_path / "again.toml"
    path.write_text(text)
    again = experiment.run(path, jobs=1, simulate=fake_host.simulate)
    assert again.manifest["scenario_sha256"] in page


def test_the_command_writes_it_and_refuses_what_it_cannot_write(directory, tmp_path, capsys):
    out = tmp_path / "report.html"
    found = run_json(capsys, "report", str(directory), "-o", str(out))
    assert found == {"report": str(out), "bytes": out.stat().st_size}
    for arguments, said in (
        ((str(tmp_path), "-o", str(out)), "not a result directory"),
        ((str(directory), "-o", str(tmp_path)), "a directory"),
        ((str(directory), "-o", str(tmp_path / "no" / "x.html")), "no such directory"),
        ((str(directory), "-o", str(out), "--reference", "nobody"), "nobody"),
    ):
        status, text, err = run_command(capsys, "report", *arguments)
        assert (status, text, err.count("\n")) == (2, "", 1)
        assert said in err


def test_a_pipe_or_a_device_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write(pipe, b"a page")
    assert os.read(reader, 100) == b"a page"
    os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_browser_shows_it_without_an_error_and_sorts_its_tables(page, tmp_path):
    watch = element(
        "script",
        Markup("""
        window.wrong = [];
        addEventListener("error", (event) => wrong.push(event.message));
        addEventListener("securitypolicyviolation", (event) => wrong.push("blocked: " + event.blockedURI));
    """),
    )
    then = element(
        "script",
        Markup("""
        const table = document.querySelector("table.sortable"), root = document.documentElement;
        const column = () => Array.from(table.tBodies[0].rows, (row) => Number(row.cells[4].dataset.value));
        table.tHead.rows[0].cells[4].click(); root.dataset.up = column().join(" ");
        table.tHead.rows[0].cells[4].click(); root.dataset.down = column().join(" ");
        root.dataset.wrong = wrong.join("; ");
        const boxes = Array.from(document.querySelectorAll("svg"), (svg) => svg.getBoundingClientRect());
        const fits = (each) => each.scrollWidth <= each.clientWidth + 1;
        const tables = Array.from(document.querySelectorAll("#answer table, #costs table"));
        root.dataset.wide = tables.filter((each) => !fits(each)).length;
        root.dataset.figures = boxes.filter((box) => box.width > 200 && box.height > 100).length;
    """),
    )
    path = tmp_path / "report.html"
    path.write_text(page.replace("<meta charset", f"{watch}<meta charset", 1).replace("</body>", f"{then}</body>"))
    options = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --window-size=1100,1500 --dump-dom"
    )
    done = subprocess.run(
        [BROWSER, *options.split(), f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    root = Elements(done.stdout).all("html")[0]
    assert root["data-wrong"] == ""
    assert root["data-figures"] == "4"
    assert root["data-wide"] == "0"
    assert int(root["data-sortable"]) >= 7
    up = [float(value) for value in root["data-up"].split()]
    assert up == sorted(up)
    assert len(up) == 2
    assert [float(value) for value in root["data-down"].split()] == up[::-1]
    assert "more than XSAVES guest-only" in done.stdout
