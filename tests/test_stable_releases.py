"""A stable release of a kernel of the model: what is said of it, which was read in another one."""

import re

import pytest
from command import run, run_json

from sim.errors import InputError
from sim.kernel import releases, versions


def said(name):
    near = versions.nearest(releases.release(name))
    return releases.of_a_stable(name, near.kernel, versions.differences())


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("v6.6.106", [2, 6, 9, 10, 11, 15, 17, 22]),
        ("6.12.30", [2, 6, 9, 10, 11, 17, 21, 22]),
        ("6.18.35-cloud-amd64", [11, 23]),
    ],
)
def test_of_a_stable_release_it_is_said_where_the_kernel_was_read_and_what_may_differ(name, rows):
    assert [int(number) for number in re.findall(r"(\d+) \(", said(name))] == rows


@pytest.mark.parametrize("name", ["6.6.0", "6.6", "6.12.117+deb13", "v6.18.2", "7.3.4"])
def test_of_the_release_that_was_read_nothing_is_said(name):
    assert said(name) == ""


def test_what_stable_releases_brought_to_6_12_and_6_1_is_said_of_6_6_too():
    """Cells and notes that name a stable release are where those of v6.6 must be in doubt."""
    told = {row.number for row in versions.differences() if re.search(r"6\.12\.0", row.cells["v6.12"].says)}
    others = releases.read_releases()["v6.1"].differs
    told |= {each.number for each in others if "stable release" in each.says}
    assert told - {21} <= {int(number) for number in re.findall(r"(\d+) \(", said("6.6.106"))}  # v6.6 has no such row


@pytest.mark.parametrize("name", ["v6.19.5", "7.3.9"])
def test_where_no_other_release_was_read_that_is_said(name):
    assert said(name).endswith("; what other stable releases of it do was not read")


def test_every_kernel_that_is_a_release_has_the_one_in_which_its_rows_were_read():
    for name in versions.names():
        assert not releases.release(name) or said(f"{name}.999"), name


def test_fpswitch_kernels_of_a_stable_release_begins_with_it(capsys):
    _, text, _ = run(capsys, "kernels", "v6.6.106")
    assert "Linux 6.6.106 is a release of v6.6, whose rows were read in 6.6.0" in " ".join(
        text.split("\n 1 ")[0].split()
    )
    assert run_json(capsys, "kernels", "v6.6.106")["note"].startswith("Linux 6.6.106 is a release of v6.6")
    assert run_json(capsys, "kernels", "v6.6")["note"] is None
    with pytest.raises(InputError, match=r"row for it is 'v6\.6'; fpswitch kernels 6\.6\.106 says more"):
        versions.version("6.6.106")
