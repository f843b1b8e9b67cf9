"""`make check-dist` finds what is wrong with the files of a release."""

import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

# The checker is a program that finds its parts beside itself.
sys.path.append(str(Path(__file__).parent))

import check_dist

VERSION = check_dist.version()
SDIST = f"ferroloop-{VERSION}.tar.gz"
PLATFORM = "manylinux_2_17_x86_64"


def wheels(*left_out, version=VERSION, platform=PLATFORM):
    """The names of the wheels of a release."""
    tags = [f"cp{python.replace('.', '')}" for python in check_dist.supported()]
    return [
        f"ferroloop-{version}-{it.rstrip('t')}-{it}-{platform}.whl"
        for it in tags
        if it not in left_out
    ]


@pytest.mark.parametrize(
    ("files", "sdists", "found"),
    [
        (wheels(), [SDIST], []),
        (wheels(), [], [f"the sdists are [], not {SDIST}"]),
        ([], [SDIST], ["no wheel"]),
        (wheels("cp312"), [SDIST], [f"no wheel of {PLATFORM} for ['cp312']"]),
        (wheels("cp314t"), [SDIST], [f"no wheel of {PLATFORM} for ['cp314t']"]),
        (
            [*wheels(), *wheels("cp311", platform="macosx_11_0_arm64")],
            [SDIST],
            ["no wheel of macosx_11_0_arm64 for ['cp311']"],
        ),
        (
            wheels(version="0.0.9"),
            [SDIST],
            [f"not of version {VERSION}: {wheels(version='0.0.9')}"],
        ),
    ],
)
def test_names(files, sdists, found):
    assert list(check_dist.names(files, sdists)) == found


def component(name, version):
    return {"name": name, "version": version}


PYO3 = next(component(*crate) for crate in check_dist.locked() if crate[0] == "pyo3")


@pytest.mark.parametrize(
    ("component_version", "crates", "found"),
    [
        (VERSION, [PYO3], []),
        ("0.0.9", [PYO3], ["the list of crates is that of version 0.0.9"]),
        (VERSION, [], ["the list of crates lacks PyO3"]),
        (
            VERSION,
            [PYO3, component("surprise", "1.0.0")],
            ["lists crates that are not in Cargo.lock: [('surprise', '1.0.0')]"],
        ),
    ],
)
def test_the_list_of_crates(tmp_path, component_version, crates, found):
    wheel = tmp_path / "a.whl"
    document = {
        "metadata": {"component": component("ferroloop", component_version)},
        "components": crates,
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"ferroloop-{VERSION}.dist-info/sboms/a.json", json.dumps(document))
    texts = [text.removeprefix("a.whl").lstrip(": ") for text in check_dist.materials(wheel)]
    assert texts == found


def test_a_wheel_without_a_list(tmp_path):
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"ferroloop-{VERSION}.dist-info/METADATA", "")
    assert list(check_dist.materials(wheel)) == ["a.whl has 0 lists of the crates: []"]


def test_the_contents_of_an_sdist(tmp_path):
    sdist = tmp_path / SDIST
    sources = [path.relative_to(check_dist.ROOT) for path in check_dist.ROOT.glob("src/**/*.rs")]
    with tarfile.open(sdist, "w:gz") as archive:
        for name in (*check_dist.NEEDED_TO_BUILD, *sources, "build/LICENSE"):
            if str(name) not in ("Cargo.lock", "src/lib.rs"):
                archive.addfile(tarfile.TarInfo(f"ferroloop-{VERSION}/{name}"), io.BytesIO())
    assert list(check_dist.contents(sdist)) == [
        f"{SDIST} lacks ['Cargo.lock', 'src/lib.rs']",
        f"{SDIST} contains ['build']",
    ]
